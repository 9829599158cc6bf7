#include "train/commands/reply_options.h"

#include <CLI/CLI.hpp>

#include "train/commands/arguments.h"
#include "train/commands/numbers.h"

namespace ossature {

void add_reply_options(CLI::App& command, ReplyOptions& options) {
  command
      .add_option("--system", options.system,
                  "Who the model is, in the system message, instead of \"You are ChatGPT\"...")
      ->type_name("TEXT");
  command
      .add_option("--developer,--instructions", options.developer, "Developer message, instead of the conversation's")
      ->type_name("TEXT");
  command.add_option("--reasoning-effort", options.reasoning_effort, "How long the model should think")
      ->check(CLI::IsMember({"low", "medium", "high"}));
  add_date_option(command, options.date);
  command.add_option("--max-new-tokens", options.max_new_tokens, "Length at which a reply is cut")
      ->check(whole_number_from(1))
      ->capture_default_str();
  command.add_option("--temperature", options.sampling.temperature, "0: always the most probable token")
      ->check(number_from(0.0))
      ->capture_default_str();
  command.add_option("--top-k", options.sampling.top_k, "Draw from the k most probable tokens; 0: from all")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command.add_option("--top-p", options.sampling.top_p, "Draw from the most probable tokens that reach p together")
      ->check(number_within(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "Equal seeds draw equal replies")
      ->check(whole_number_from(0))
      ->capture_default_str();
}

void apply_to(const ReplyOptions& options, Conversation& conversation) {
  auto& messages = conversation.messages;
  if (options.developer) {
    if (!messages.empty() && (messages[0].role == "system" || messages[0].role == "developer")) {
      messages.erase(messages.begin());
    }
    Message instructions;
    instructions.role = "developer";
    instructions.content = *options.developer;
    messages.insert(messages.begin(), std::move(instructions));
  }
  if (options.system) conversation.model_identity = *options.system;
  if (options.reasoning_effort) conversation.reasoning_effort = *options.reasoning_effort;
}

void check_tokenizer(const Harmony& harmony, const ModelConfig& config, const std::filesystem::path& model) {
  if (harmony.tokenizer().vocab_size() <= config.vocab_size) return;
  throw DataError(model.string() + ": tokenizer.json has " + std::to_string(harmony.tokenizer().vocab_size()) +
                  " ids, the model's vocab_size is " + std::to_string(config.vocab_size) +
                  "; put the model's own tokenizer.json there");
}

}  // namespace ossature
