// The dialects of training data in JSON lines.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "data/conversation.h"
#include "data/data_error.h"

namespace ossature {

enum class DataFormat {
  kMessages,          // {"messages": [{"role": ..., "content": ...}], "tools": [...], "reasoning_effort": ...}
  kPromptCompletion,  // {"prompt": "...", "completion": "..."}: the user's question and its answer; or two lists of
                      // messages
  kText,              // {"text": "..."}: plain text, learned whole
};

/// The format of that name ("messages", "prompt-completion", "text"); nullopt for "auto". Throws DataError for another
/// name.
[[nodiscard]] std::optional<DataFormat> data_format(std::string_view name);

/// A sample before it is rendered: a conversation, or plain text.
using Sample = std::variant<Conversation, std::string>;

/// Reads one JSON line; without `format` its keys tell. A message of the assistant may carry "thinking" (or
/// "reasoning_content"), "tool_calls" (one), and "weight" (a number) or "train" (a boolean): its weight in the loss.
/// Beside the messages may stand "tools", "builtin_tools", "reasoning_effort", "model_identity" and "date"; other keys
/// are not looked at. Arguments of a call may be an object or the JSON text of one; content may be a string or a list
/// of text parts. Throws DataError saying what is wrong (not where: the caller knows).
[[nodiscard]] Sample parse_sample(std::string_view line, std::optional<DataFormat> format);

}  // namespace ossature
