// The dialects of JSONL training data: one JSON object a line, either a conversation or plain text.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/conversation.h"
#include "data/data_error.h"

namespace ossature {

enum class DataFormat { kAuto, kMessages, kPromptCompletion, kText };

/// "auto", "messages", "prompt-completion", "text": what --format takes.
[[nodiscard]] const std::vector<std::string>& data_format_names();
/// Throws DataError for another name.
[[nodiscard]] DataFormat data_format_of(std::string_view name);

using Sample = std::variant<Conversation, PlainText>;

/// What `line` holds. kAuto goes by the keys of this line. `source` ("chats.jsonl:12") begins every message.
/// Throws DataError if the line is no JSON object, or not of that format; nothing in it is left out silently.
[[nodiscard]] Sample parse_sample(std::string_view line, DataFormat format, const std::string& source);

}  // namespace ossature
