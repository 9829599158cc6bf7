// What a line of training data says, before it becomes tokens. The words are those of the gpt-oss chat template.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace ossature {

enum class Role { kSystem, kDeveloper, kUser, kAssistant, kTool };

/// A call of a function by the assistant.
struct ToolCall {
  std::string name;       // without "functions."
  std::string arguments;  // JSON text as Python's json.dumps writes it: what the template renders
  std::string content_type = "json";
};

struct Message {
  Role role = Role::kUser;
  std::optional<std::string> content;  // of a tool: its result as JSON text (a plain string has its quotes)
  std::optional<std::string>
      thinking;  // of an assistant: the analysis channel; rendered even if empty, as the template does
  std::optional<ToolCall> tool_call;  // of an assistant; harmony has one call a message
  std::string name;                   // of a tool: the function that answers; may be empty
  float weight = 1.0f;                // in the loss; of an assistant, others are never learned
};

struct Conversation {
  std::vector<Message> messages;
  std::string tools;                       // JSON text: an array of functions in OpenAI's form; "" for none
  std::vector<std::string> builtin_tools;  // of "browser", "python"
  std::string reasoning_effort = "medium";
  std::string model_identity = "You are ChatGPT, a large language model trained by OpenAI.";
  std::optional<std::string> date;  // "2026-01-15"; the renderer's date unless given
  std::string source;               // "chats.jsonl:12", for messages; may be empty
};

/// A document without turns; all of it is learned.
struct PlainText {
  std::string text;
  std::string source;
};

}  // namespace ossature
