// A message in the harmony format, between a conversation and tokens. Internal to data/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ossature {

enum class HarmonyRole { kSystem, kDeveloper, kUser, kAssistant, kTool };

/// <|start|>AUTHOR<|channel|>CHANNEL CONTENT_TYPE<|message|>CONTENT<|end|>; "<|call|>" ends a call.
struct HarmonyMessage {
  HarmonyRole role = HarmonyRole::kUser;
  std::vector<std::string> author;   // each part tokenized on its own; the assistant's first part is "assistant"
  std::string channel;               // "": neither it nor its token
  std::string content_type;          // "": none; may begin with "<|constrain|>"
  std::vector<std::string> content;  // each part tokenized on its own
  bool is_call = false;
  float weight = 1.0f;

  // Set once it is tokenized.
  std::vector<std::int32_t> tokens;
  std::size_t num_header = 0;  // the first tokens, which are never generated where the message opens a turn

  [[nodiscard]] bool is_assistant() const { return role == HarmonyRole::kAssistant; }
  [[nodiscard]] bool is_final() const { return is_assistant() && channel == "final"; }
  [[nodiscard]] bool is_analysis() const { return channel == "analysis"; }
};

}  // namespace ossature
