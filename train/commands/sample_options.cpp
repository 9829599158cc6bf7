#include "train/commands/sample_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>

#include "data/harmony/learn_options.h"
#include "train/commands/arguments.h"

namespace ossature {
namespace {

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

}  // namespace

void SampleOptions::add_to(CLI::App& command) {
  const auto before = command.get_options().size();
  command.add_option("--format", format_, "Dialect; auto: told by each file's first record")
      ->check(CLI::IsMember({"auto", "messages", "sharegpt", "alpaca", "prompt-completion", "text", "harmony"}))
      ->capture_default_str();
  command
      .add_option("--map", map_,
                  "Names of fields in the data where they are others: content=text,role=speaker; may be repeated")
      ->type_name("FIELD=NAME,...")
      ->delimiter(',')
      ->check(accepted_by([](const std::string& text) { FieldMap().add(text); }));
  command.add_option("--renderer", renderer_, "As gpt-oss's chat template renders, or as openai-harmony does")
      ->check(CLI::IsMember({"template", "harmony"}))
      ->capture_default_str();
  add_date_option(command, date_);
  command.add_option("--knowledge-cutoff", harmony_.knowledge_cutoff, "In the system message, unless a sample says")
      ->type_name("DATE")
      ->capture_default_str();
  command.add_option("--model-identity", harmony_.model_identity, "First line of the system message")
      ->type_name("TEXT")
      ->capture_default_str();
  command.add_option("--reasoning-effort", harmony_.reasoning_effort, "In the system message")
      ->check(CLI::IsMember({"low", "medium", "high"}))
      ->capture_default_str();
  command.add_flag("--keep-analysis", harmony_.keep_analysis, "Keep that of earlier turns; with --renderer harmony");
  command
      .add_option("--learn", learn_,
                  "Weights by channel and role: final=1,analysis=0.5,commentary=1,tool_calls=1 (what is not named "
                  "keeps its own: 1 for these, 0 for system, developer, user, tool)")
      ->type_name("NAME=FACTOR,...")
      ->check(accepted_by([](const std::string& text) { (void)learn_options(text); }));
  command
      .add_option("--turns", turns_,
                  "Learn all turns of a conversation, its last, or expand each into a sample of its own")
      ->check(CLI::IsMember({"all", "last", "expand"}))
      ->capture_default_str();
  const auto options = command.get_options();
  added_.assign(options.begin() + static_cast<std::ptrdiff_t>(before), options.end());
}

FormatOptions SampleOptions::format() const {
  FormatOptions options;
  options.format = data_format(format_);
  for (const std::string& assignment : map_) options.fields.add(assignment);
  return options;
}

HarmonyOptions SampleOptions::harmony() const {
  HarmonyOptions options = harmony_;
  options.renderer = harmony_renderer(renderer_);
  options.date = date_of(date_);
  if (!learn_.empty()) options.learn = learn_options(learn_);
  options.learn.turns = learned_turns(turns_);
  return options;
}

bool SampleOptions::are_given() const {
  return std::any_of(added_.begin(), added_.end(), [](const CLI::Option* option) { return option->count() > 0; });
}

}  // namespace ossature
