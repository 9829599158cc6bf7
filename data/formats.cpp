#include "data/formats.h"

#include <cmath>

#include "data/python_json.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

std::string string_of(const Json& value, const std::string& what) {
  if (!value.is_string()) throw DataError(what + " is " + (value.is_null() ? "missing" : "not a string"));
  return value.get<std::string>();
}

/// A string, a list of {"type": "text", "text": ...} parts, or nothing.
std::optional<std::string> text_of(const Json& value, const std::string& what) {
  if (value.is_null()) return std::nullopt;
  if (!value.is_array()) return string_of(value, what);
  std::string text;
  for (const Json& part : value) {
    if (!part.is_object() || part.value("type", Json()) != "text")
      throw DataError(what + " has a part that is not text; only text can be learned");
    text += string_of(part.value("text", Json()), what + ": the text of a part");
  }
  return text;
}

ToolCall tool_call_of(const Json& calls, const std::string& where) {
  if (!calls.is_array() || calls.empty()) throw DataError(where + "tool_calls is not a list with one call");
  if (calls.size() > 1)
    throw DataError(where + "tool_calls has " + std::to_string(calls.size()) +
                    " calls; the format has one a message: split it");
  const Json& call = calls[0].is_object() && calls[0].contains("function") ? calls[0]["function"] : calls[0];
  if (!call.is_object()) throw DataError(where + "tool_calls[0] is not an object");
  ToolCall result;
  result.name = string_of(call.value("name", Json()), where + "tool_calls[0]: name");
  result.content_type = string_of(call.value("content_type", Json("json")), where + "tool_calls[0]: content_type");
  Json arguments = call.value("arguments", Json::object());
  // OpenAI's API gives arguments as JSON text; rendered as it is, it would be quoted twice.
  if (arguments.is_string()) {
    const Json inner = Json::parse(arguments.get_ref<const std::string&>(), nullptr, /*allow_exceptions=*/false);
    if (inner.is_object()) arguments = inner;
  }
  result.arguments = python_json(arguments);
  return result;
}

float weight_of(const Json& message, const std::string& where) {
  if (message.contains("train") && !message["train"].is_null()) {
    if (!message["train"].is_boolean()) throw DataError(where + "train is neither true nor false");
    return message["train"].get<bool>() ? 1.0f : 0.0f;
  }
  if (!message.contains("weight") || message["weight"].is_null()) return 1.0f;
  if (!message["weight"].is_number()) throw DataError(where + "weight is not a number");
  const auto weight = message["weight"].get<float>();
  if (!std::isfinite(weight) || weight < 0.0f)
    throw DataError(where + "weight is " + message["weight"].dump() + ", expected 0 or more");
  return weight;
}

Message message_of(const Json& json, const std::string& list, std::size_t i) {
  const std::string where = list + " " + std::to_string(i + 1) + ": ";
  if (!json.is_object()) throw DataError(where + "not an object");
  Message message;
  message.role = string_of(json.value("role", Json()), where + "role");
  const Json content = json.value("content", Json());
  if (message.role == "tool" && json.contains("content") && !content.is_string()) {
    message.content = python_json(content);
    message.content_is_json = true;
  } else {
    message.content = text_of(content, where + "content");
  }
  for (const char* key : {"thinking", "reasoning_content"}) {
    if (!message.thinking) message.thinking = text_of(json.value(key, Json()), where + key);
  }
  if (const Json calls = json.value("tool_calls", Json()); !calls.is_null() && !calls.empty()) {
    message.tool_call = tool_call_of(calls, where);
  }
  if (message.role == "tool" && json.contains("name") && json["name"].is_string())
    message.name = json["name"].get<std::string>();
  message.weight = weight_of(json, where);
  if (message.role != "assistant" && json.contains("train") && message.weight > 0.0f) {
    throw DataError(where + "train is true, but only the assistant's words can be learned; remove it");
  }
  return message;
}

/// What stands beside the messages.
void read_settings(const Json& json, Conversation& conversation) {
  if (Json tools = json.value("tools", Json()); !tools.is_null() && !tools.empty()) {
    // Tables of strings carry tools as JSON text.
    if (tools.is_string())
      tools = Json::parse(tools.get_ref<const std::string&>(), nullptr, /*allow_exceptions=*/false);
    if (!tools.is_array()) throw DataError("\"tools\" is not a list");
    if (!tools.empty()) conversation.tools = tools.dump();
  }
  if (const Json names = json.value("builtin_tools", Json()); !names.is_null()) {
    if (!names.is_array()) throw DataError("\"builtin_tools\" is not a list");
    for (const Json& name : names) {
      if (name != "browser" && name != "python") {
        throw DataError("\"builtin_tools\" has " + name.dump() + "; expected \"browser\" or \"python\"");
      }
      conversation.builtin_tools.push_back(name.get<std::string>());
    }
  }
  for (auto [key, member] : {std::pair{"reasoning_effort", &conversation.reasoning_effort},
                             std::pair{"model_identity", &conversation.model_identity}}) {
    if (const Json value = json.value(key, Json()); !value.is_null()) *member = string_of(value, key);
  }
  const std::string& effort = conversation.reasoning_effort;
  if (!effort.empty() && effort != "low" && effort != "medium" && effort != "high") {
    throw DataError("reasoning_effort is \"" + effort + "\"; expected low, medium or high");
  }
  if (const Json date = json.value("date", Json()); !date.is_null()) conversation.date = string_of(date, "date");
}

void add_messages(const Json& json, const char* key, const std::string& name, Conversation& conversation) {
  const Json messages = json.value(key, Json());
  if (!messages.is_array()) {
    throw DataError("\"" + std::string(key) + "\" is " + (messages.is_null() ? "missing" : "not a list"));
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    conversation.messages.push_back(message_of(messages[i], name, i));
  }
}

Conversation conversation_of(const Json& json) {
  Conversation conversation;
  add_messages(json, "messages", "message", conversation);
  read_settings(json, conversation);
  return conversation;
}

/// "prompt" and "completion" are both texts, or both lists of messages; only the completion is learned.
Conversation question_and_answer(const Json& json) {
  Conversation conversation;
  read_settings(json, conversation);
  if (json.contains("prompt") && json["prompt"].is_array()) {
    add_messages(json, "prompt", "prompt message", conversation);
    for (Message& message : conversation.messages) message.weight = 0.0f;
    add_messages(json, "completion", "completion message", conversation);
    return conversation;
  }
  conversation.messages.resize(2);
  conversation.messages[0].role = "user";
  conversation.messages[0].content = string_of(json.value("prompt", Json()), "\"prompt\"");
  conversation.messages[1].role = "assistant";
  conversation.messages[1].content = string_of(json.value("completion", Json()), "\"completion\"");
  return conversation;
}

DataFormat detect(const Json& json) {
  if (json.contains("messages")) return DataFormat::kMessages;
  if (json.contains("prompt") && json.contains("completion")) return DataFormat::kPromptCompletion;
  if (json.contains("text")) return DataFormat::kText;
  std::string keys;
  for (const auto& [key, value] : json.items()) keys += (keys.empty() ? "" : ", ") + key;
  throw DataError("an object with the keys " + (keys.empty() ? "(none)" : keys) +
                  "; expected \"messages\", \"prompt\" and \"completion\", or \"text\"");
}

}  // namespace

std::optional<DataFormat> data_format(std::string_view name) {
  if (name == "auto") return std::nullopt;
  if (name == "messages") return DataFormat::kMessages;
  if (name == "prompt-completion") return DataFormat::kPromptCompletion;
  if (name == "text") return DataFormat::kText;
  throw DataError("format \"" + std::string(name) + "\"; expected auto, messages, prompt-completion or text");
}

void SampleParser::detect(const std::vector<Record>&) {}

Sample SampleParser::parse(const Record& record) const {
  try {
    if (!record.error.empty()) throw DataError(record.error);
    if (record.is_plain_text) return record.text;
    return parse_sample(record.text, options_.format);
  } catch (const DataError& error) {
    throw DataError(record.place() + ": " + error.what());
  }
}

Sample parse_sample(std::string_view line, std::optional<DataFormat> format) {
  Json json;
  try {
    json = Json::parse(line);
  } catch (const Json::exception& error) {
    throw DataError(std::string("not JSON: ") + error.what() + "; expected one JSON object a line");
  }
  if (!json.is_object()) throw DataError("not a JSON object; expected one a line, such as {\"messages\": [...]}");
  switch (format ? *format : detect(json)) {
    case DataFormat::kMessages:
      return conversation_of(json);
    case DataFormat::kPromptCompletion:
      return question_and_answer(json);
    case DataFormat::kText:
      return string_of(json.value("text", Json()), "\"text\"");
    default:
      throw DataError("this dialect is not read yet");
  }
  throw std::logic_error("unknown format");
}

}  // namespace ossature
