#include "data/prepare.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "data/learn_options.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/progress.h"
#include "train/errors.h"
#include "train/interrupt.h"
#include "train/prepare_report.h"

namespace ossature {
namespace {

struct Options {
  PrepareOptions prepare;
  std::string format = "auto", renderer = "template", date, learn, turns = "all", over_length = "error",
              on_error = "stop";
  std::vector<std::string> map;
  bool json = false;
};

/// What `read` complains of is a usage error.
CLI::Validator accepted_by(const std::function<void(const std::string&)>& read) {
  return CLI::Validator(
      [read](const std::string& text) {
        try {
          read(text);
          return std::string();
        } catch (const DataError& error) {
          return std::string(error.what());
        }
      },
      "");
}

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
  prepare.format.format = data_format(options.format);
  for (const std::string& assignment : options.map) prepare.format.fields.add(assignment);
  prepare.harmony.renderer = harmony_renderer(options.renderer);
  prepare.harmony.date = date_of(options.date);
  if (!options.learn.empty()) prepare.harmony.learn = learn_options(options.learn);
  prepare.harmony.learn.turns = learned_turns(options.turns);
  prepare.length.over_length = over_length(options.over_length);
  prepare.skip_errors = options.on_error == "skip";
  if ((prepare.validation > 0.0) != !prepare.validation_out.empty()) {
    throw CLI::ValidationError("--validation", "goes together with --validation-out");
  }
  if (options.over_length != "error" && prepare.length.max_length == 0) {
    throw CLI::ValidationError("--over-length", "needs --max-length");
  }
  check_output_file(prepare.out);
  if (prepare.validation > 0.0) check_output_file(prepare.validation_out);
  const PrepareSummary summary = prepare_with_progress(prepare);
  std::cout << (options.json ? to_json(summary, prepare) + "\n" : to_text(summary, prepare));
}

void add_harmony_options(CLI::App& command, Options& options) {
  HarmonyOptions& harmony = options.prepare.harmony;
  command.add_option("--renderer", options.renderer, "As gpt-oss's chat template renders, or as openai-harmony does")
      ->check(CLI::IsMember({"template", "harmony"}))
      ->capture_default_str();
  add_date_option(command, options.date);
  command.add_option("--knowledge-cutoff", harmony.knowledge_cutoff, "In the system message, unless a sample says")
      ->type_name("DATE")
      ->capture_default_str();
  command.add_option("--model-identity", harmony.model_identity, "First line of the system message")
      ->type_name("TEXT")
      ->capture_default_str();
  command.add_option("--reasoning-effort", harmony.reasoning_effort, "In the system message")
      ->check(CLI::IsMember({"low", "medium", "high"}))
      ->capture_default_str();
  command.add_flag("--keep-analysis", harmony.keep_analysis, "Keep that of earlier turns; with --renderer harmony");
  command
      .add_option("--learn", options.learn,
                  "Weights by channel and role: final=1,analysis=0.5,commentary=1,tool_calls=1 (what is not named "
                  "keeps its own: 1 for these, 0 for system, developer, user, tool)")
      ->type_name("NAME=FACTOR,...")
      ->check(accepted_by([](const std::string& text) { (void)learn_options(text); }));
  command
      .add_option("--turns", options.turns,
                  "Learn all turns of a conversation, its last, or expand each into a sample of its own")
      ->check(CLI::IsMember({"all", "last", "expand"}))
      ->capture_default_str();
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
  command->add_option("--out", prepare.out, "Token file to write")->required()->type_name("FILE.h5");
  command->add_option("--format", options->format, "Dialect; auto: told by each file's first record")
      ->check(CLI::IsMember({"auto", "messages", "sharegpt", "alpaca", "prompt-completion", "text", "harmony"}))
      ->capture_default_str();
  command
      ->add_option("--map", options->map,
                   "Names of fields in the data where they are others: content=text,role=speaker; may be repeated")
      ->type_name("FIELD=NAME,...")
      ->delimiter(',')
      ->check(accepted_by([](const std::string& text) { FieldMap().add(text); }));
  add_harmony_options(*command, *options);
  command->add_option("--max-length", prepare.length.max_length, "Tokens of a sample")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 31));
  command->add_option("--over-length", options->over_length, "What to do with longer samples")
      ->check(CLI::IsMember({"error", "drop", "truncate", "split"}))
      ->capture_default_str();
  command->add_option("--on-error", options->on_error, "At a record that is wrong: stop, or skip, count and list it")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  command->add_option("--validation", prepare.validation, "Share of the records held out, chosen by content")
      ->check(CLI::Range(0.0, 0.9));
  command->add_option("--validation-out", prepare.validation_out, "Token file of those")->type_name("FILE.h5");
  command->add_option("--threads", prepare.threads, "Threads; 0: one a processor")->check(CLI::Range(0, 1024));
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
