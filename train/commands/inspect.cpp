#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>

#include "train/commands/command.h"
#include "train/reports/inspection.h"
#include "train/reports/token_report.h"
#include "train/text/progress.h"

namespace ossature {

namespace {

struct Arguments {
  std::filesystem::path path, tokenizer;
  bool json = false;
};

/// What the structure tells comes at once, the rest when all samples are read.
void print_token_file(const Arguments& arguments) {
  const TokenFileReader file(arguments.path);
  std::cout << to_text(describe_structure(file)) << std::flush;
  Inspection contents;
  {
    constexpr std::int64_t kWorthSaying = 200'000'000;  // a few seconds
    Progress progress("inspect");
    add_contents(file, arguments.tokenizer, contents, [&](std::int64_t done) {
      if (file.num_tokens() > kWorthSaying) progress.show(done, file.num_tokens());
    });
  }
  std::cout << "\n" << to_text(contents);
}

void run(const Arguments& arguments) {
  if (!arguments.json && arguments.path.extension() == ".h5" && std::filesystem::is_regular_file(arguments.path)) {
    print_token_file(arguments);
    return;
  }
  const Inspection inspection = inspect(arguments.path, arguments.tokenizer);
  std::cout << (arguments.json ? to_json(inspection) + "\n" : to_text(inspection));
}

}  // namespace

void register_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "What a checkpoint, adapter, run folder or token file holds");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("PATH", arguments->path, "Folder or file to look at")->required();
  command
      ->add_option("--tokenizer", arguments->tokenizer,
                   "Directory with tokenizer.json: that of a token file, to tell its channels")
      ->type_name("DIR");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace ossature
