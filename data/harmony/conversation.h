// A conversation as training data gives it, before it is rendered.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace ossature {

/// A call of a function by the assistant.
struct ToolCall {
  std::string name;
  std::string arguments;     // JSON text
  std::string content_type;  // "json" unless the data says otherwise
};

// Content as OpenAI's library openai-harmony 0.0.8 has it (its src/chat.rs).

struct FunctionDescription {
  std::string name;
  std::string description;                // may have several lines, or none
  std::optional<std::string> parameters;  // JSON text of a schema
};

/// A group of functions, such as "functions" or "browser".
struct ToolNamespace {
  std::string name;
  std::optional<std::string> description;
  std::vector<FunctionDescription> functions;
};

/// By their keys, which decide the order.
using ToolNamespaces = std::map<std::string, ToolNamespace>;

/// A line of the system message: the renderer's own unless it is given; then the value, or nothing at all.
struct SystemSetting {
  bool is_given = false;
  std::optional<std::string> value;
};

struct SystemContent {
  SystemSetting model_identity, knowledge_cutoff, conversation_start_date;
  SystemSetting reasoning_effort;  // low | medium | high
  ToolNamespaces tools;
  std::vector<std::string> valid_channels = {"analysis", "commentary", "final"};  // none: their section is left out
  bool channel_required = true;
};

struct DeveloperContent {
  std::optional<std::string> instructions;
  ToolNamespaces tools;
};

/// A part of a message; each is tokenized on its own.
using ContentPart = std::variant<std::string, SystemContent, DeveloperContent>;

struct Message {
  std::string role;  // system | developer | user | assistant | tool
  std::optional<std::string> content;
  std::optional<std::string> thinking;  // the assistant's analysis
  std::optional<ToolCall> tool_call;
  bool content_is_json = false;  // content is JSON text rather than a string (results of tools)
  std::string name;              // of a tool: the function that answers; of others: their name; "" = not given
  // Of the header, "" = not given. The renderer "template" has no room for what differs from its own.
  std::string channel;             // analysis | commentary | final, or another that the data names
  std::string recipient;           // "functions.f", "browser.search", "assistant", "all"
  std::string content_type;        // "<|constrain|>json", "json", "code"
  std::vector<ContentPart> parts;  // instead of `content`, of openai-harmony's conversations (`is_harmony` below)
  float weight = 1.0f;             // of what is learned of the message, in the loss
};

[[nodiscard]] inline Message user_message(std::string content) {
  Message message;
  message.role = "user";
  message.content = std::move(content);
  return message;
}

struct Conversation {
  std::vector<Message> messages;
  /// The messages are openai-harmony's objects, written one by one: none is added, none has `thinking` or `tool_call`,
  /// and the settings below are in their contents.
  bool is_harmony = false;
  std::string tools;                       // JSON text of an array of function descriptions, or ""
  std::vector<std::string> builtin_tools;  // of "browser", "python"
  // Instead of the renderer's, "" or nullopt = not given.
  std::string reasoning_effort;  // low | medium | high
  std::optional<std::string> model_identity;
  std::string knowledge_cutoff;     // "2024-06"
  std::optional<std::string> date;  // "2026-01-15"
};

}  // namespace ossature
