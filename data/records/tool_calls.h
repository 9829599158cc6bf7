// Calls of functions in training data, and the results that belong to them. Internal to data/.
#pragma once

#include <string>
#include <vector>

#include "data/harmony/conversation.h"
#include "data/records/json_fields.h"

namespace ossature {

struct IdentifiedCall {
  ToolCall call;
  std::string id;  // "" if the data give none
};

/// A message as the data have it: with any number of calls, or answering the call of an id.
struct GivenMessage {
  Message message;
  std::vector<IdentifiedCall> calls;
  std::string answers;  // tool_call_id, "" if not given
  std::string where;    // "message 3: ", for errors
};

/// One call: {"name", "arguments"}, bare or under "function", arguments an object or the JSON text of one; no arguments
/// are {}. Throws DataError beginning with `where`.
[[nodiscard]] IdentifiedCall read_tool_call(const Json& call, const std::string& where);

/// Of a message: "tool_calls", or OpenAI's earlier "function_call".
[[nodiscard]] std::vector<IdentifiedCall> read_tool_calls(const JsonFields& message);

/// gpt-oss makes one call at a time and reads its result before the next, so a message with several calls becomes one
/// message a call, each followed by its result; thinking and content stay with the first. Results are matched by
/// tool_call_id, else by name, else by order, and get the name of their function. Throws DataError for a result whose
/// id no call has, a call answered twice, and several calls of which one but the last has no result.
[[nodiscard]] std::vector<Message> one_call_a_message(std::vector<GivenMessage> turns);

}  // namespace ossature
