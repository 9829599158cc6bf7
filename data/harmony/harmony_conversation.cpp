#include "data/harmony/harmony_conversation.h"

#include <algorithm>
#include <cmath>

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

/// The value of `key`; nullptr if it is missing or null.
const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

/// An object of the data, and where it stands.
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw DataError(where_ + ": " + json.type_name() + "; expected an object");
  }

  [[nodiscard]] bool has(const char* key) const { return json_.contains(key); }

  [[nodiscard]] std::optional<std::string> text(const char* key) const {
    const Json* value = find(json_, key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) fail(key, *value, "a string");
    return value->get<std::string>();
  }
  [[nodiscard]] std::string required_text(const char* key) const {
    const auto value = text(key);
    if (!value) throw DataError(where_ + ": \"" + key + "\" is missing; expected a string");
    return *value;
  }
  /// "" if it is not given.
  [[nodiscard]] std::string header_text(const char* key) const {
    const auto value = text(key);
    if (value && value->empty()) throw DataError(where_ + ": \"" + key + "\" is empty; leave it out");
    return value.value_or("");
  }
  [[nodiscard]] SystemSetting setting(const char* key) const { return {has(key), text(key)}; }

  [[nodiscard]] const Json* list(const char* key) const {
    const Json* value = find(json_, key);
    if (value != nullptr && !value->is_array()) fail(key, *value, "a list");
    return value;
  }
  [[nodiscard]] const Json* object(const char* key) const {
    const Json* value = find(json_, key);
    if (value != nullptr && !value->is_object()) fail(key, *value, "an object");
    return value;
  }
  [[nodiscard]] const std::string& where() const { return where_; }

  [[noreturn]] void fail(const std::string& key, const Json& found, const std::string& expected) const {
    throw DataError(where_ + ": \"" + key + "\" is " + found.type_name() + "; expected " + expected);
  }

 private:
  const Json& json_;
  std::string where_;
};

FunctionDescription function_of(const Json& json, const std::string& where) {
  const Reader reader(json, where);
  FunctionDescription function{reader.required_text("name"), reader.required_text("description"), std::nullopt};
  if (const Json* parameters = reader.object("parameters")) function.parameters = parameters->dump();
  return function;
}

ToolNamespaces tools_of(const Reader& content) {
  ToolNamespaces result;
  const Json* tools = content.object("tools");
  if (tools == nullptr) return result;
  for (const auto& [key, json] : tools->items()) {
    const Reader reader(json, content.where() + ": tools: " + key);
    ToolNamespace& space = result[key];
    space.name = reader.required_text("name");
    space.description = reader.text("description");
    const Json* functions = reader.list("tools");
    if (functions == nullptr) throw DataError(reader.where() + ": \"tools\" is missing; expected a list of functions");
    for (const Json& function : *functions) space.functions.push_back(function_of(function, reader.where()));
  }
  return result;
}

void read_channels(const Reader& reader, SystemContent& content) {
  if (!reader.has("channel_config")) return;
  content.valid_channels.clear();
  const Json* json = reader.object("channel_config");
  if (json == nullptr) return;
  const Reader config(*json, reader.where() + ": channel_config");
  const Json* channels = config.list("valid_channels");
  const Json* required = find(*json, "channel_required");
  if (channels == nullptr || required == nullptr || !required->is_boolean()) {
    throw DataError(config.where() + ": expected \"valid_channels\", a list, and \"channel_required\", true or false");
  }
  for (const Json& channel : *channels) {
    if (!channel.is_string()) config.fail("valid_channels", channel, "strings in it");
    content.valid_channels.push_back(channel.get<std::string>());
  }
  content.channel_required = required->get<bool>();
}

SystemContent system_content_of(const Reader& reader) {
  SystemContent content;
  content.model_identity = reader.setting("model_identity");
  content.knowledge_cutoff = reader.setting("knowledge_cutoff");
  content.conversation_start_date = reader.setting("conversation_start_date");
  content.reasoning_effort = reader.setting("reasoning_effort");
  if (auto& effort = content.reasoning_effort.value) {
    std::transform(effort->begin(), effort->end(), effort->begin(), [](unsigned char c) { return std::tolower(c); });
    if (*effort != "low" && *effort != "medium" && *effort != "high") {
      throw DataError(reader.where() + ": \"reasoning_effort\" is \"" + *effort + "\"; expected Low, Medium or High");
    }
  }
  content.tools = tools_of(reader);
  read_channels(reader, content);
  return content;
}

ContentPart part_of(const Json& json, const std::string& role, const std::string& where) {
  const Reader reader(json, where);
  const std::string type = reader.required_text("type");
  if (type == "text") return reader.required_text("text");
  if (type == "system_content" || type == "developer_content") {
    if (type != role + "_content") {
      throw DataError(where + ": " + type + " in a message of role " + role + "; put it into one of role " +
                      type.substr(0, type.find('_')));
    }
    if (type == "system_content") return system_content_of(reader);
    return DeveloperContent{reader.text("instructions"), tools_of(reader)};
  }
  throw DataError(where + ": a part of type \"" + type + "\"; expected text, system_content or developer_content");
}

void read_content(const Json& json, const std::string& where, Message& message) {
  const Json* content = find(json, "content");
  if (content == nullptr) throw DataError(where + ": no content");
  if (content->is_string()) {
    message.content = content->get<std::string>();
    return;
  }
  if (!content->is_array()) {
    throw DataError(where + ": content is " + content->type_name() + "; expected a string or a list of parts");
  }
  for (const Json& part : *content) message.parts.push_back(part_of(part, message.role, where + ": content"));
  if (message.parts.empty()) message.content = "";
}

/// Our own keys beside the library's.
float weight_of(const Json& json, const std::string& where) {
  if (const Json* train = find(json, "train")) {
    if (!train->is_boolean()) throw DataError(where + ": train is neither true nor false");
    if (!train->get<bool>()) return 0.0f;
  }
  const Json* weight = find(json, "weight");
  if (weight == nullptr) return 1.0f;
  const double value = weight->is_number() ? weight->get<double>() : -1.0;
  if (!(value >= 0.0 && std::isfinite(static_cast<float>(value)))) {
    throw DataError(where + ": weight is " + weight->dump() + "; expected a number from 0 up");
  }
  return static_cast<float>(value);
}

Message message_of(const Json& json, const std::string& where) {
  const Reader reader(json, where);
  Message message;
  message.role = reader.required_text("role");
  const auto roles = {"system", "developer", "user", "assistant", "tool"};
  if (std::find(roles.begin(), roles.end(), message.role) == roles.end()) {
    throw DataError(where + ": role \"" + message.role + "\"; expected system, developer, user, assistant or tool");
  }
  message.name = reader.header_text("name");
  if (message.role == "tool" && message.name.empty()) {
    throw DataError(where + ": a tool without name; expected \"name\", such as \"functions.f\"");
  }
  message.channel = reader.header_text("channel");
  message.recipient = reader.header_text("recipient");
  message.content_type = reader.header_text("content_type");
  read_content(json, where, message);
  message.weight = weight_of(json, where);
  return message;
}

}  // namespace

bool is_harmony_conversation(const Json& json) {
  if (!json.is_object()) return false;
  const Json* messages = find(json, "messages");
  if (messages == nullptr || !messages->is_array()) return false;
  const auto is_own_part = [](const Json& part) {
    const Json* type = part.is_object() ? find(part, "type") : nullptr;
    return type != nullptr && (*type == "system_content" || *type == "developer_content");
  };
  return std::any_of(messages->begin(), messages->end(), [&](const Json& message) {
    const Json* content = message.is_object() ? find(message, "content") : nullptr;
    return content != nullptr && content->is_array() && std::any_of(content->begin(), content->end(), is_own_part);
  });
}

Conversation harmony_conversation_of(const Json& json) {
  const Reader reader(json, "the conversation");
  const Json* messages = reader.list("messages");
  if (messages == nullptr || messages->empty()) throw DataError("the conversation has no message");
  Conversation conversation;
  conversation.is_harmony = true;
  for (const Json& message : *messages) {
    conversation.messages.push_back(message_of(message, "message " + std::to_string(conversation.messages.size() + 1)));
  }
  return conversation;
}

}  // namespace ossature
