// What generate and chat share: how replies are drawn, and the model's own tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/harmony/harmony.h"
#include "model/network/generate.h"
#include "train/commands/model_options.h"

namespace ossature {

struct ReplyOptions {
  std::optional<std::string> system, developer, reasoning_effort;
  std::string date;
  std::int64_t max_new_tokens = 512;
  SamplingOptions sampling;
  std::uint64_t seed = 0;
};

/// Adds --system, --developer, --reasoning-effort, --date, --max-new-tokens, --temperature, --top-k, --top-p and
/// --seed; `options` must live as long as `command`.
void add_reply_options(CLI::App& command, ReplyOptions& options);

/// What they say of a conversation: a developer message instead of its own first system or developer message, ...
void apply_to(const ReplyOptions& options, Conversation& conversation);

/// Throws DataError if `harmony`'s tokenizer has more ids than `model`.
void check_tokenizer(const Harmony& harmony, const ModelConfig& config, const std::filesystem::path& model);

}  // namespace ossature
