#include <array>
#include <string_view>
#include <utility>

#include "data/records/dialects.h"
#include "data/records/tool_calls.h"

namespace ossature {
namespace {

constexpr const char* kSpeakers =
    "human or user, gpt, assistant or model, system, tool, function or observation, or function_call";

struct Speaker {
  std::string_view from;
  const char* role;
  bool is_call;
};

constexpr std::array kRoles = {
    Speaker{"human", "user", false},
    Speaker{"user", "user", false},
    Speaker{"gpt", "assistant", false},
    Speaker{"assistant", "assistant", false},
    Speaker{"model", "assistant", false},
    Speaker{"chatgpt", "assistant", false},
    Speaker{"bot", "assistant", false},
    Speaker{"system", "system", false},
    Speaker{"developer", "developer", false},
    Speaker{"tool", "tool", false},
    Speaker{"function", "tool", false},
    Speaker{"observation", "tool", false},
    Speaker{"function_response", "tool", false},
    Speaker{"function_call", "assistant", true},
};

/// The value of function_call is the JSON text of a call, or of a list of them.
std::vector<IdentifiedCall> calls_of(const std::string& value, const std::string& where) {
  const auto read = [&]() -> Json {
    try {
      return parse_json(value);
    } catch (const DataError& error) {
      throw DataError(where + "a function_call that is " + error.what() +
                      R"(; expected {"name": ..., "arguments": ...})");
    }
  };
  const Json json = read();
  std::vector<IdentifiedCall> calls;
  if (!json.is_array()) return {read_tool_call(json, where + "function_call: ")};
  for (const Json& call : json) calls.push_back(read_tool_call(call, where + "function_call: "));
  return calls;
}

GivenMessage read_given_message(const JsonFields& fields) {
  const std::string from = fields.text(Field::kFrom, kSpeakers);
  for (const Speaker& speaker : kRoles) {
    if (speaker.from != from) continue;
    GivenMessage turn;
    turn.where = fields.where();
    turn.message.role = speaker.role;
    std::string value = fields.text(Field::kValue);
    if (speaker.is_call) {
      turn.calls = calls_of(value, turn.where);
    } else {
      turn.message.content = std::move(value);
    }
    turn.message.thinking = fields.optional_text(Field::kThinking);
    turn.message.weight = read_weight(fields, turn.message.role);
    return turn;
  }
  fields.refuse(Field::kFrom, kSpeakers);
}

}  // namespace

Conversation read_sharegpt(const JsonFields& record) {
  const Json* list = record.find(Field::kMessages);
  if (list == nullptr || !list->is_array()) record.refuse(Field::kMessages, "a list of turns");
  if (list->empty()) record.fail("the conversation has no turn: an empty list; expected one turn or more");
  std::vector<GivenMessage> turns;
  for (std::size_t i = 0; i < list->size(); ++i) {
    turns.push_back(read_given_message(JsonFields((*list)[i], record.map(), "turn " + std::to_string(i + 1) + ": ")));
  }
  Conversation conversation;
  conversation.messages = one_call_a_message(std::move(turns));
  read_settings(record, conversation);
  return conversation;
}

}  // namespace ossature
