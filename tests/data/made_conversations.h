// Conversations made from a seed.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "data/harmony/conversation.h"

namespace ossature {

class ConversationMaker {
 public:
  explicit ConversationMaker(std::uint32_t seed) : random_(seed) {}

  int up_to(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit + 1)); }
  bool chance(double share) { return static_cast<double>(random_()) < share * 4294967295.0; }

  std::string text() {
    static const std::vector<std::string> parts = {"the ", "quick", " fox",    "\n",         " ",  "é",  "日本", "👋",
                                                   "12",   ".",     "<|end|>", "{\"a\": 1}", "'s", "\t", "X"};
    std::string result;
    for (int n = up_to(6); n > 0; --n)
      result += parts[static_cast<std::size_t>(up_to(static_cast<int>(parts.size()) - 1))];
    return result;
  }

  /// One that both renderers take, if `for_template`; otherwise a call may have content and thinking.
  Conversation messages(bool for_template) {
    Conversation conversation;
    if (chance(0.3)) add(conversation, chance(0.5) ? "system" : "developer", text());
    if (chance(0.3)) conversation.tools = R"([{"type": "function", "function": {"name": "f", "description": "d"}}])";
    if (chance(0.1)) conversation.builtin_tools = {"python"};
    bool was_called = false;
    for (int n = 1 + up_to(9); n > 0; --n) {
      const int kind = up_to(5);
      if (kind <= 1) {
        add(conversation, "user", text());
      } else if (kind == 2 && was_called) {
        add(conversation, "tool", text());
        conversation.messages.back().content_is_json = false;
      } else if (kind <= 4) {
        Message& message = add(conversation, "assistant", text());
        if (chance(0.5)) message.thinking = "t" + text();
        was_called = chance(0.5) && (was_called || kind == 3);
        if (!was_called) continue;
        if (for_template && message.thinking) message.content.reset();
        message.tool_call =
            ToolCall{chance(0.5) ? "f" : "get_x", "{\"x\": \"" + std::to_string(up_to(99)) + "\"}", "json"};
      }
    }
    if (conversation.messages.empty()) add(conversation, "user", text());
    return conversation;
  }

  /// openai-harmony's own.
  Conversation harmony() {
    Conversation conversation;
    conversation.is_harmony = true;
    if (chance(0.5)) {
      add(conversation, "system", {}).content.reset();
      conversation.messages.back().parts = {SystemContent{}};
    }
    for (int n = 1 + up_to(9); n > 0; --n) {
      const int kind = up_to(6);
      Message& message = add(conversation, kind <= 1 ? "user" : kind == 2 ? "tool" : "assistant", text());
      if (kind == 2) message.name = "functions.f";
      if (kind < 2) continue;
      static const std::vector<std::string> channels = {"analysis", "final",    "commentary", "",
                                                        "other",    "analysis", "final"};
      message.channel = channels[static_cast<std::size_t>(up_to(6))];
      if (chance(0.2)) message.recipient = kind == 2 ? "assistant" : "functions.f";
      if (chance(0.2)) message.content_type = "<|constrain|>json";
      if (chance(0.1)) message.parts = {*message.content, "more"};
      if (!message.parts.empty()) message.content.reset();
    }
    return conversation;
  }

 private:
  static Message& add(Conversation& conversation, const char* role, std::string content) {
    Message& message = conversation.messages.emplace_back();
    message.role = role;
    message.content = std::move(content);
    return message;
  }

  std::mt19937 random_;
};

}  // namespace ossature
