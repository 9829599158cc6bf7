// A conversation as training data gives it, before it is rendered.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace ossature {

/// A call of a function by the assistant.
struct ToolCall {
  std::string name;
  std::string arguments;     // JSON text
  std::string content_type;  // "json" unless the data says otherwise
};

struct Message {
  std::string role;  // system | developer | user | assistant | tool
  std::optional<std::string> content;
  std::optional<std::string> thinking;  // the assistant's analysis
  std::optional<ToolCall> tool_call;
  bool content_is_json = false;  // content is JSON text rather than a string (results of tools)
  std::string name;              // of a tool: the function that answers; "" if the data does not say
  // Of the header, "" = not given; only the renderer "harmony" takes them.
  std::string channel;       // analysis | commentary | final, or another that the data names
  std::string recipient;     // "functions.f", "browser.search", "assistant", "all"
  std::string content_type;  // "<|constrain|>json", "json", "code"
  float weight = 1.0f;       // of the tokens that the assistant generates, in the loss
};

struct Conversation {
  std::vector<Message> messages;
  std::string tools;                       // JSON text of an array of function descriptions, or ""
  std::vector<std::string> builtin_tools;  // of "browser", "python"
  std::string reasoning_effort = "medium";
  std::string model_identity = "You are ChatGPT, a large language model trained by OpenAI.";
  std::optional<std::string> date;  // "2026-01-15", instead of the renderer's
};

}  // namespace ossature
