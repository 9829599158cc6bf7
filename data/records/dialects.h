// The dialects that are conversations, one function each. Internal to data/; formats.h chooses among them.
#pragma once

#include "data/harmony/conversation.h"
#include "data/records/json_fields.h"

namespace ossature {

/// {"messages": [{"role": ..., "content": ...}]}: OpenAI's and transformers'.
[[nodiscard]] Conversation read_messages(const JsonFields& record);

/// {"conversations": [{"from": ..., "value": ...}]}.
[[nodiscard]] Conversation read_sharegpt(const JsonFields& record);

/// {"instruction": ..., "input": ..., "output": ...}.
[[nodiscard]] Conversation read_alpaca(const JsonFields& record);

/// {"prompt": ..., "completion": ...}, texts or lists of messages; of the prompt nothing is learned.
[[nodiscard]] Conversation read_prompt_completion(const JsonFields& record);

/// A list of messages under `field`, `name` what errors call one of them ("message").
[[nodiscard]] std::vector<Message> read_message_list(const JsonFields& record, Field field, const std::string& name);

/// How much a message or turn counts in the loss: "weight", a number, or "train", a boolean; 1 without either. Throws
/// DataError where something is to be learned that the assistant does not say.
[[nodiscard]] float read_weight(const JsonFields& message, const std::string& role);

/// What stands beside the messages in each of these: tools, builtin_tools, reasoning_effort, model_identity, date, and
/// system, which becomes the first message.
void read_settings(const JsonFields& record, Conversation& conversation);

[[nodiscard]] Message make_message(std::string role, std::string content);

}  // namespace ossature
