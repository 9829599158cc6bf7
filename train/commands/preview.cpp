#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string_view>

#include "data/token_file.h"
#include "model/checkpoint_writer.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/preview.h"

namespace ossature {
namespace {

struct Options {
  std::filesystem::path file, tokenizer, html;
  std::int64_t sample = 0, count = 1, max_tokens = 16384;
  std::string color = "auto";
};

bool has_color(const std::string& choice) {
  if (choice != "auto") return choice == "always";
  const char* no_color = std::getenv("NO_COLOR");  // no-color.org
  const char* terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && (no_color == nullptr || *no_color == '\0') &&
         (terminal == nullptr || std::string_view(terminal) != "dumb");
}

Tokenizer load_tokenizer(const Options& options, const TokenFileReader& file) {
  const std::string& sha256 = file.tokenizer_sha256();
  if (options.tokenizer.empty()) {
    throw CLI::ValidationError("--tokenizer",
                               "is missing; a token file holds ids only, so give the folder with its "
                               "tokenizer.json" +
                                   (sha256.empty() ? "" : ", that of SHA-256 " + sha256));
  }
  Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  if (!sha256.empty() && tokenizer.sha256() != sha256) {
    std::cerr << "warning: " << options.tokenizer.string() << " has SHA-256 " << tokenizer.sha256() << ", but "
              << file.path().string() << " was made with a tokenizer of " << sha256 << ": the text may be wrong\n";
  }
  return tokenizer;
}

std::vector<PreviewSample> read_samples(const Options& options, const TokenFileReader& file) {
  const std::string path = file.path().string();
  const std::int64_t all = file.num_samples();
  if (all == 0) throw DataError(path + ": holds no sample; prepare the file anew");
  if (options.sample >= all) {
    throw DataError(path + ": has no sample " + std::to_string(options.sample) + "; its " + std::to_string(all) +
                    " are counted from 0, so give --sample 0 to " + std::to_string(all - 1));
  }
  std::vector<PreviewSample> samples;
  const auto offsets = file.sample_offsets();
  const std::int64_t end = std::min(all, options.sample + std::min(all, options.count));
  for (std::int64_t s = options.sample; s < end; ++s) {
    PreviewSample sample;
    sample.title = "sample " + std::to_string(s) + " of " + std::to_string(all);
    if (const std::string source = file.sample_source(s); source != "sample " + std::to_string(s)) {
      sample.title += ", " + source;
    }
    const std::int64_t begin = offsets[static_cast<std::size_t>(s)];
    sample.length = offsets[static_cast<std::size_t>(s) + 1] - begin;
    const auto shown = options.max_tokens > 0 ? std::min(sample.length, options.max_tokens) : sample.length;
    sample.tokens.resize(static_cast<std::size_t>(shown));
    sample.loss_weights.resize(sample.tokens.size());
    file.read_tokens(begin, sample.tokens);
    file.read_loss_weights(begin, sample.loss_weights);
    samples.push_back(std::move(sample));
  }
  return samples;
}

void run(const Options& options) {
  if (!options.html.empty()) check_output_file(options.html);
  const TokenFileReader file(options.file);
  const Tokenizer tokenizer = load_tokenizer(options, file);
  const std::vector<PreviewSample> samples = read_samples(options, file);
  if (options.html.empty()) {
    write_preview_text(std::cout, samples, tokenizer, has_color(options.color));
    return;
  }
  std::ostringstream page;
  write_preview_page(page, "Preview of " + options.file.filename().string(), samples, tokenizer);
  replace_text_file(options.html, std::move(page).str());
  std::cout << options.html.string() << ": " << samples.size() << (samples.size() == 1 ? " sample\n" : " samples\n");
}

}  // namespace

void register_preview(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("preview", "Show samples of a token file: the text, and what of it is learned");
  command->add_option("FILE", options->file, "Token file")->required()->type_name("FILE.h5");
  command->add_option("--tokenizer", options->tokenizer, "Directory with tokenizer.json: the one of prepare")
      ->type_name("DIR");
  command->add_option("--sample", options->sample, "The first sample to show, counted from 0")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--count", options->count, "How many samples")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--max-tokens", options->max_tokens, "Tokens shown of a sample; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--html", options->html, "Write a page for a browser instead of text")->type_name("OUT.html");
  command->add_option("--color", options->color, "Colours: auto is for terminals")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  command->callback([options] { run(*options); });
}

}  // namespace ossature
