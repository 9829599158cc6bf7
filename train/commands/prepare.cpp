#include "data/prepare/prepare.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/commands/sample_options.h"
#include "train/failure/errors.h"
#include "train/loop/interrupt.h"
#include "train/reports/prepare_report.h"
#include "train/text/progress.h"

namespace ossature {
namespace {

struct Options {
  PrepareOptions prepare;
  SampleOptions samples;
  std::string over_length = "error", on_error = "stop";
  bool json = false;
};

PrepareSummary prepare_with_progress(PrepareOptions options) {
  const InterruptGuard interrupt;
  const auto check = [&] {
    if (interrupt.is_requested()) throw InterruptedError("prepare: interrupted; nothing was written");
  };
  options.records.while_waiting = check;
  Progress progress("prepare");
  return prepare(options, [&](const PrepareProgress& done) {
    check();
    progress.show(done.bytes_done, done.bytes_total, {{done.bytes_done, "bytes"}, {done.tokens, "tokens"}});
  });
}

void run(Options& options) {
  PrepareOptions& prepare = options.prepare;
  prepare.format = options.samples.format();
  prepare.harmony = options.samples.harmony();
  prepare.length.over_length = over_length(options.over_length);
  prepare.skip_errors = options.on_error == "skip";
  if ((prepare.validation > 0.0) != !prepare.validation_out.empty()) {
    throw CLI::ValidationError("--validation", "goes together with --validation-out");
  }
  if (options.over_length != "error" && prepare.length.max_length == 0) {
    throw CLI::ValidationError("--over-length", "needs --max-length");
  }
  const OutputFile out(prepare.out, OutputFile::Replaces::kHdf5);
  std::optional<OutputFile> validation_out;
  if (prepare.validation > 0.0) validation_out.emplace(prepare.validation_out, OutputFile::Replaces::kHdf5);
  const PrepareSummary summary = prepare_with_progress(prepare);
  std::cout << (options.json ? to_json(summary, prepare) + "\n" : to_text(summary, prepare));
}

}  // namespace

void register_prepare(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  PrepareOptions& prepare = options->prepare;
  CLI::App* command = app.add_subcommand("prepare", "Tokenize training data into a token file");
  command
      ->add_option("FILE", prepare.inputs,
                   "JSON lines, a JSON array or text, plain or in gzip or zstd; - is standard input")
      ->required();
  command->add_option("--tokenizer", prepare.tokenizer, "Directory with tokenizer.json: the base model's")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", prepare.out, "Token file to write, or to replace")->required()->type_name("FILE.h5");
  options->samples.add_to(*command);
  command->add_option("--max-length", prepare.length.max_length, "Tokens of a sample")
      ->check(whole_number_within(2, std::int64_t{1} << 31));
  command->add_option("--over-length", options->over_length, "What to do with longer samples")
      ->check(CLI::IsMember({"error", "drop", "truncate", "split"}))
      ->capture_default_str();
  command->add_option("--on-error", options->on_error, "At a record that is wrong: stop, or skip, count and list it")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  command->add_option("--validation", prepare.validation, "Share of the records held out, chosen by content")
      ->check(number_within(0.0, 0.9));
  command->add_option("--validation-out", prepare.validation_out, "Token file of those")->type_name("FILE.h5");
  command->add_option("--threads", prepare.threads, "Threads; 0: one a processor")->check(whole_number_within(0, 1024));
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
