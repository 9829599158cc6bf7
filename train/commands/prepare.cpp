#include "data/prepare.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "train/commands/arguments.h"
#include "train/commands/command.h"

namespace ossature {
namespace {

struct Options {
  PrepareOptions prepare;
  std::string format = "auto";
  std::string date;
  bool json = false;
};

nlohmann::json to_json(const PrepareCounts& counts) {
  return {{"samples", counts.samples},
          {"tokens", counts.tokens},
          {"learned_tokens", counts.learned_tokens},
          {"learned_by_channel",
           {{"analysis", counts.learned_by_channel[0]},
            {"commentary", counts.learned_by_channel[1]},
            {"final", counts.learned_by_channel[2]}}},
          {"longest_sample", counts.longest_sample},
          {"samples_without_learned_tokens", counts.without_learned}};
}

void print(const std::filesystem::path& file, const PrepareCounts& counts) {
  std::printf("%s: %lld samples, %lld tokens, longest sample %lld tokens\n", file.c_str(),
              static_cast<long long>(counts.samples), static_cast<long long>(counts.tokens),
              static_cast<long long>(counts.longest_sample));
  std::printf("  learned %lld tokens", static_cast<long long>(counts.learned_tokens));
  const char* separator = ": ";
  for (std::size_t i = 0; i < counts.learned_by_channel.size(); ++i) {
    if (counts.learned_by_channel[i] == 0) continue;
    constexpr const char* kNames[] = {"analysis", "commentary", "final"};
    std::printf("%s%s %lld", separator, kNames[i], static_cast<long long>(counts.learned_by_channel[i]));
    separator = ", ";
  }
  std::printf("\n");
  std::fflush(stdout);
  if (counts.without_learned > 0) {
    std::cerr << "warning: in " << counts.without_learned << " samples of " << file.string() << " nothing is learned\n";
  }
}

void run(Options& options) {
  options.prepare.format = data_format(options.format);
  options.prepare.date = date_of(options.date);
  if ((options.prepare.validation > 0.0) != !options.prepare.validation_out.empty()) {
    throw CLI::ValidationError("--validation", "goes together with --validation-out");
  }
  check_output_file(options.prepare.out);
  if (options.prepare.validation > 0.0) check_output_file(options.prepare.validation_out);
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  const PrepareSummary summary = prepare(options.prepare, [is_terminal](std::int64_t samples) {
    if (is_terminal) std::cerr << "\r" << samples << " samples" << std::flush;
  });
  if (is_terminal) std::cerr << "\r\x1b[K";
  if (options.json) {
    nlohmann::json result = {{"train", to_json(summary.train)}};
    if (options.prepare.validation > 0.0) result["validation"] = to_json(summary.validation);
    std::cout << result.dump() << "\n";
    return;
  }
  print(options.prepare.out, summary.train);
  if (options.prepare.validation > 0.0) print(options.prepare.validation_out, summary.validation);
}

}  // namespace

void register_prepare(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  PrepareOptions& prepare = options->prepare;
  CLI::App* command = app.add_subcommand("prepare", "Tokenize training data into a token file");
  command->add_option("FILE", prepare.inputs, "Files of JSON lines")->required();
  command->add_option("--tokenizer", prepare.tokenizer, "Directory with tokenizer.json: the base model's")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", prepare.out, "Token file to write")->required()->type_name("FILE.h5");
  command->add_option("--format", options->format, "Dialect of the lines")
      ->check(CLI::IsMember({"auto", "messages", "prompt-completion", "text"}))
      ->capture_default_str();
  add_date_option(*command, options->date);
  command->add_option("--validation", prepare.validation, "Share of samples held out, chosen by content")
      ->check(CLI::Range(0.0, 0.9));
  command->add_option("--validation-out", prepare.validation_out, "Token file of those")->type_name("FILE.h5");
  command->add_option("--threads", prepare.threads, "Threads; 0: one a processor")->check(CLI::NonNegativeNumber);
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
