#include <algorithm>
#include <cmath>
#include <utility>

#include "data/records/dialects.h"

namespace ossature {
namespace {

/// The JSON text of a list of functions, "" if there are none.
std::string read_tools(const JsonFields& record) {
  const Json* given = record.find(Field::kTools);
  if (given == nullptr) return "";
  Json tools = *given;
  const std::string& name = record.map().name(Field::kTools);
  // Tables of strings carry tools as JSON text.
  if (tools.is_string()) {
    const auto& text = given->get_ref<const std::string&>();
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) return "";
    try {
      tools = parse_json(text);
    } catch (const DataError& error) {
      record.fail(name + " is " + describe(*given) + " (" + error.what() +
                  "); expected a list of functions or the JSON text of one");
    }
    if (tools.is_null()) return "";
  }
  if (!tools.is_array()) {
    record.fail(name + " is " + describe(tools) + "; expected a list of functions or the JSON text of one");
  }
  for (std::size_t i = 0; i < tools.size(); ++i) {
    const std::string at = name + "[" + std::to_string(i) + "]";
    const Json& tool = tools[i];
    const auto inner = tool.is_object() ? tool.find("function") : tool.end();
    const Json& function = tool.is_object() && inner != tool.end() ? *inner : tool;
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) {
      record.fail(at + " is " + describe(function) +
                  R"(; expected {"name": ..., "description": ..., "parameters": ...}, bare or under "function")");
    }
  }
  return tools.empty() ? "" : tools.dump();
}

void read_builtin_tools(const JsonFields& record, std::vector<std::string>& builtin_tools) {
  const Json* names = record.find(Field::kBuiltinTools);
  if (names == nullptr) return;
  constexpr const char* kExpected = R"(a list of "browser" and "python")";
  if (!names->is_array()) record.refuse(Field::kBuiltinTools, kExpected);
  for (const Json& name : *names) {
    if (name != "browser" && name != "python") {
      record.fail(record.map().name(Field::kBuiltinTools) + " has " + describe(name) + "; expected " + kExpected);
    }
    builtin_tools.push_back(name.get<std::string>());
  }
}

/// "2026-01-15": four, two and two digits.
bool is_date(const std::string& text) {
  constexpr std::string_view kPattern = "0000-00-00";
  return text.size() == kPattern.size() &&
         std::equal(text.begin(), text.end(), kPattern.begin(),
                    [](char c, char kind) { return kind == '-' ? c == '-' : c >= '0' && c <= '9'; });
}

/// The instructions beside the messages become the first of them.
void read_system(const JsonFields& record, std::vector<Message>& messages) {
  const auto system = record.optional_text(Field::kSystem);
  if (!system || system->empty()) return;
  const bool has_own = !messages.empty() && (messages[0].role == "system" || messages[0].role == "developer");
  if (!has_own) {
    messages.insert(messages.begin(), make_message("system", *system));
  } else if (messages[0].content != system) {
    record.fail("instructions both in a message of role " + messages[0].role + " and in " +
                record.map().name(Field::kSystem) + " beside; remove one (--map system=- leaves the latter out)");
  }
}

}  // namespace

void read_settings(const JsonFields& record, Conversation& conversation) {
  conversation.tools = read_tools(record);
  read_builtin_tools(record, conversation.builtin_tools);
  read_system(record, conversation.messages);
  const std::string effort = record.optional_text(Field::kReasoningEffort).value_or("");
  if (!effort.empty() && effort != "low" && effort != "medium" && effort != "high") {
    record.refuse(Field::kReasoningEffort, "low, medium or high");
  }
  conversation.reasoning_effort = effort;
  conversation.model_identity = record.optional_text(Field::kModelIdentity);
  conversation.knowledge_cutoff = record.optional_text(Field::kKnowledgeCutoff).value_or("");
  if (auto date = record.optional_text(Field::kDate)) {
    if (!is_date(*date)) {
      record.refuse(Field::kDate, "a date like 2026-01-15, of the conversation (--map date=- leaves another out)");
    }
    conversation.date = std::move(date);
  }
}

float read_weight(const JsonFields& message, const std::string& role) {
  if (const Json* train = message.find(Field::kTrain)) {
    if (!train->is_boolean()) message.refuse(Field::kTrain, "true or false");
    if (train->get<bool>() && role != "assistant") {
      message.fail(message.map().name(Field::kTrain) + " is true for role " + role +
                   "; only the assistant's words can be learned: remove it");
    }
    return train->get<bool>() ? 1.0f : 0.0f;
  }
  const Json* weight = message.find(Field::kWeight);
  if (weight == nullptr) return 1.0f;
  if (!weight->is_number()) message.refuse(Field::kWeight, "a number from 0 up");
  const auto value = weight->get<float>();
  if (!std::isfinite(value) || value < 0.0f) message.refuse(Field::kWeight, "a number from 0 up");
  return value;
}

Message make_message(std::string role, std::string content) {
  Message message;
  message.role = std::move(role);
  message.content = std::move(content);
  return message;
}

}  // namespace ossature
