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
    if (!part.is_object() || part.value("type", Json()) != "text") throw DataError(what + " has a part that is not text; only text can be learned");
    text += string_of(part.value("text", Json()), what + ": the text of a part");
  }
  return text;
}

ToolCall tool_call_of(const Json& calls, const std::string& where) {
  if (!calls.is_array() || calls.empty()) throw DataError(where + "tool_calls is not a list with one call");
  if (calls.size() > 1) throw DataError(where + "tool_calls has " + std::to_string(calls.size()) + " calls; the format has one a message: split it");
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
  if (!std::isfinite(weight) || weight < 0.0f) throw DataError(where + "weight is " + message["weight"].dump() + ", expected 0 or more");
  return weight;
}

Message message_of(const Json& json, std::size_t i) {
  const std::string where = "message " + std::to_string(i + 1) + ": ";
  if (!json.is_object()) throw DataError(where + "not an object");
  Message message;
  message.role = string_of(json.value("role", Json()), where + "role");
  const Json content = json.value("content", Json());
  const bool is_parts = content.is_array() && !content.empty() && content[0].is_object() && content[0].value("type", Json()) == "text";
  if (message.role == "tool" && !content.is_string() && !content.is_null() && !is_parts) {
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
  message.weight = weight_of(json, where);
  return message;
}

Conversation conversation_of(const Json& json) {
  const Json messages = json.value("messages", Json());
  if (!messages.is_array()) throw DataError("\"messages\" is " + std::string(messages.is_null() ? "missing" : "not a list"));
  Conversation conversation;
  for (std::size_t i = 0; i < messages.size(); ++i) conversation.messages.push_back(message_of(messages[i], i));
  if (const Json tools = json.value("tools", Json()); !tools.is_null() && !tools.empty()) conversation.tools = tools.dump();
  for (auto [key, member] : {std::pair{"reasoning_effort", &conversation.reasoning_effort},
                             std::pair{"model_identity", &conversation.model_identity}}) {
    if (const Json value = json.value(key, Json()); !value.is_null()) *member = string_of(value, key);
  }
  return conversation;
}

Conversation question_and_answer(const Json& json) {
  Conversation conversation;
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

Sample parse_sample(std::string_view line, std::optional<DataFormat> format) {
  Json json;
  try {
    json = Json::parse(line);
  } catch (const Json::exception& error) {
    throw DataError(std::string("not JSON: ") + error.what());
  }
  if (!json.is_object()) throw DataError("not a JSON object");
  switch (format ? *format : detect(json)) {
    case DataFormat::kMessages:
      return conversation_of(json);
    case DataFormat::kPromptCompletion:
      return question_and_answer(json);
    case DataFormat::kText:
      return string_of(json.value("text", Json()), "\"text\"");
  }
  throw std::logic_error("unknown format");
}

}  // namespace ossature
