#include <algorithm>
#include <array>

#include "data/harmony/python_json.h"
#include "data/records/dialects.h"
#include "data/records/tool_calls.h"

namespace ossature {
namespace {

bool is_text_part(const Json& part) {
  if (!part.is_object()) return false;
  const auto type = part.find("type");
  const auto text = part.find("text");
  return type != part.end() && text != part.end() && text->is_string() &&
         (*type == "text" || *type == "input_text" || *type == "output_text");
}

/// A string, or a list of text parts, which are joined as they are.
std::optional<std::string> text_or_parts(const JsonFields& message, Field field) {
  const Json* value = message.find(field);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) message.refuse(field, "a string or a list of text parts");
  std::string text;
  for (std::size_t i = 0; i < value->size(); ++i) {
    const Json& part = (*value)[i];
    if (!is_text_part(part)) {
      const auto type = part.is_object() ? part.find("type") : part.end();
      const bool has_type = part.is_object() && type != part.end() && type->is_string();
      message.fail(message.map().name(field) + "[" + std::to_string(i) + "] is " +
                   (has_type ? "a part of type " + type->dump() : describe(part)) +
                   R"(; expected {"type": "text", "text": "..."}: only text can be learned)");
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

/// A result of a tool is a text, or any JSON, null too, which the renderer gets as JSON text.
void read_result(const JsonFields& fields, Message& message) {
  const auto content = fields.object().find(fields.map().name(Field::kContent));
  const bool is_given = content != fields.object().end();
  const bool is_parts = is_given && content->is_array() && !content->empty() &&
                        std::all_of(content->begin(), content->end(), is_text_part);
  if (!is_given || content->is_string() || is_parts) {
    message.content = text_or_parts(fields, Field::kContent);
  } else {
    message.content = python_json(*content);
    message.content_is_json = true;
  }
  message.name = fields.optional_text(Field::kName).value_or("");
}

std::string read_role(const JsonFields& fields) {
  constexpr const char* kExpected = "system, developer, user, assistant or tool";
  const std::string role = fields.text(Field::kRole, kExpected);
  if (role == "function") return "tool";  // OpenAI's earlier name
  for (const char* known : {"system", "developer", "user", "assistant", "tool"}) {
    if (role == known) return role;
  }
  fields.refuse(Field::kRole, kExpected);
}

GivenMessage read_given_message(const JsonFields& fields) {
  GivenMessage turn;
  turn.where = fields.where();
  Message& message = turn.message;
  message.role = read_role(fields);
  if (message.role == "tool") {
    read_result(fields, message);
    turn.answers = fields.optional_text(Field::kToolCallId).value_or("");
  } else {
    message.content = text_or_parts(fields, Field::kContent);
  }
  message.thinking = text_or_parts(fields, Field::kThinking);
  turn.calls = read_tool_calls(fields);
  if (message.role != "assistant") {
    if (!turn.calls.empty()) fields.fail("tool calls of role " + message.role + "; only the assistant calls tools");
    if (!message.thinking.value_or("").empty()) {
      fields.fail("thinking of role " + message.role + "; only the assistant thinks");
    }
  }
  message.channel = fields.optional_text(Field::kChannel).value_or("");
  message.recipient = fields.optional_text(Field::kRecipient).value_or("");
  message.content_type = fields.optional_text(Field::kContentType).value_or("");
  message.weight = read_weight(fields, message.role);
  return turn;
}

}  // namespace

std::vector<Message> read_message_list(const JsonFields& record, Field field, const std::string& name) {
  const Json* list = record.find(field);
  if (list == nullptr || !list->is_array()) record.refuse(field, "a list of messages");
  if (list->empty()) record.fail("the conversation has no message: an empty list; expected one message or more");
  std::vector<GivenMessage> turns;
  for (std::size_t i = 0; i < list->size(); ++i) {
    turns.push_back(read_given_message(
        JsonFields((*list)[i], record.map(), record.where() + name + " " + std::to_string(i + 1) + ": ")));
  }
  return one_call_a_message(std::move(turns));
}

Conversation read_messages(const JsonFields& record) {
  Conversation conversation;
  conversation.messages = read_message_list(record, Field::kMessages, "message");
  read_settings(record, conversation);
  return conversation;
}

}  // namespace ossature
