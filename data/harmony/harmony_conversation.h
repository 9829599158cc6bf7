// The conversations of OpenAI's library openai-harmony, as their to_json() writes them. Internal to data/.
#pragma once

#include <nlohmann/json.hpp>

#include "data/data_error.h"
#include "data/harmony/conversation.h"

namespace ossature {

/// Whether `json`'s "messages" can only be openai-harmony's: some content is "system_content" or "developer_content".
[[nodiscard]] bool is_harmony_conversation(const nlohmann::ordered_json& json);

/// {"messages": [{"role": ..., "name": ..., "content": TEXT or [{"type": "text", "text": ...}, {"type":
/// "system_content", ...}, {"type": "developer_content", ...}], "channel": ..., "recipient": ..., "content_type":
/// ...}]}; a message may have "weight" or "train" besides. As in the library's from_json(), what is missing in a
/// system_content is the renderer's own, and what is null is left out. Throws DataError.
[[nodiscard]] Conversation harmony_conversation_of(const nlohmann::ordered_json& json);

}  // namespace ossature
