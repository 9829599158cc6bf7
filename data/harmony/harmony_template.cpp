#include "data/harmony/harmony_template.h"

#include "data/harmony/harmony_tools.h"
#include "data/harmony/python_json.h"

namespace ossature {
namespace {

std::string at_message(std::size_t i) {
  return "message " + std::to_string(i + 1) + ": ";
}

/// The template refuses channels inside text, which means that the data was rendered already.
void check_text(const std::optional<std::string>& text, const char* field, std::size_t i) {
  if (!text) return;
  for (const char* markup : {"<|channel|>analysis<|message|>", "<|channel|>final<|message|>"}) {
    if (text->find(markup) != std::string::npos) {
      throw DataError(at_message(i) + field + " contains " + markup +
                      "; put the analysis into \"thinking\" and the answer into \"content\"");
    }
  }
}

/// The template writes headers of its own: what a message says about them must be that.
void check_header(const Message& message, std::size_t i) {
  const bool is_answer = message.role == "assistant" && !message.tool_call;
  const std::string channel = is_answer                                               ? "final"
                              : message.role == "assistant" || message.role == "tool" ? "commentary"
                                                                                      : "";
  const auto check = [i](const std::string& found, const char* key, const std::string& expected) {
    if (found.empty() || found == expected) return;
    throw DataError(at_message(i) + key + " is \"" + found +
                    "\", for which the chat template has no room; render with --renderer harmony");
  };
  check(message.channel, "channel", channel);
  check(message.recipient, "recipient", message.role == "tool" ? "assistant" : "");
  check(message.content_type, "content_type", "");
}

void check(const Conversation& conversation) {
  if (conversation.is_harmony) {
    throw DataError(
        "openai-harmony's own conversation, which the chat template cannot render; render with --renderer harmony");
  }
  if (conversation.messages.empty()) throw DataError("the conversation has no message");
  for (std::size_t i = 0; i < conversation.messages.size(); ++i) {
    const Message& message = conversation.messages[i];
    const std::string& role = message.role;
    check_header(message, i);
    if (role == "system" || role == "developer") {
      if (i > 0)
        throw DataError(at_message(i) + "role " + role + "; instructions can only be the first message: join them");
      continue;
    }
    if (role != "user" && role != "assistant" && role != "tool") {
      throw DataError(at_message(i) + "role \"" + role + "\"; expected system, developer, user, assistant or tool");
    }
    if (role != "assistant") {
      if (!message.content) throw DataError(at_message(i) + "no content");
      continue;
    }
    check_text(message.content, "content", i);
    check_text(message.thinking, "thinking", i);
    if (!message.tool_call && !message.content) throw DataError(at_message(i) + "neither content nor tool_calls");
    if (message.tool_call && message.content.value_or("") != "" && message.thinking.value_or("") != "") {
      throw DataError(
          at_message(i) +
          "content and thinking beside tool_calls; the format has room for one: put both into \"thinking\"");
    }
  }
}

std::string system_text(const Conversation& conversation, const HarmonyOptions& options) {
  const auto given = [](const std::string& value, const std::string& otherwise) {
    return value.empty() ? otherwise : value;
  };
  std::string text = conversation.model_identity.value_or(options.model_identity) +
                     "\nKnowledge cutoff: " + given(conversation.knowledge_cutoff, options.knowledge_cutoff) + "\n";
  if (const auto& date = conversation.date ? conversation.date : options.date) text += "Current date: " + *date + "\n";
  text += "\nReasoning: " + given(conversation.reasoning_effort, options.reasoning_effort) + "\n\n";
  if (!conversation.builtin_tools.empty()) text += "# Tools\n\n" + render_builtin_tools(conversation.builtin_tools);
  text += "# Valid channels: analysis, commentary, final. Channel must be included for every message.";
  if (!conversation.tools.empty()) text += "\nCalls to these tools must go to the commentary channel: 'functions'.";
  return text;
}

class MessageWriter {
 public:
  explicit MessageWriter(const Conversation& conversation) : conversation_(conversation) {}

  void given(HarmonyRole role, std::string author, std::string content) {
    HarmonyMessage& message = messages_.emplace_back();
    message.role = role;
    message.author = {std::move(author)};
    message.content = {std::move(content)};
  }

  void assistant(const Message& source, std::size_t i) {
    if (source.tool_call) {
      const ToolCall& call = *source.tool_call;
      const std::string analysis = source.content.value_or("").empty() ? source.thinking.value_or("") : *source.content;
      if (!analysis.empty()) generated("analysis", analysis, source.weight);
      HarmonyMessage& message = generated("commentary", call.arguments, source.weight);
      message.author.push_back(" to=functions." + call.name);
      message.content_type = call.content_type;
      message.is_call = true;
      last_call_ = call.name;
      return;
    }
    if (source.thinking) generated("analysis", *source.thinking, source.weight);
    generated("final", *source.content, source.weight);
    if (i + 1 < conversation_.messages.size()) last_call_.clear();
  }

  void result(const Message& source, std::size_t i) {
    if (last_call_.empty()) {
      throw DataError(at_message(i) + "role tool, but no tool call of the assistant comes before it");
    }
    if (!source.name.empty() && source.name != last_call_ && source.name != "functions." + last_call_) {
      throw DataError(at_message(i) + "a result of \"" + source.name + "\" after a call of \"" + last_call_ +
                      "\"; put each result after its call");
    }
    given(HarmonyRole::kTool, "functions." + last_call_ + " to=assistant",
          source.content_is_json ? *source.content : python_json(nlohmann::ordered_json(*source.content)));
    messages_.back().channel = "commentary";
    messages_.back().weight = source.weight;
  }

  [[nodiscard]] std::vector<HarmonyMessage> take() { return std::move(messages_); }
  HarmonyMessage& last() { return messages_.back(); }

 private:
  HarmonyMessage& generated(const char* channel, const std::string& content, float weight) {
    HarmonyMessage& message = messages_.emplace_back();
    message.role = HarmonyRole::kAssistant;
    message.author = {"assistant"};
    message.channel = channel;
    message.content = {content};
    message.weight = weight;
    return message;
  }

  const Conversation& conversation_;
  std::vector<HarmonyMessage> messages_;
  std::string last_call_;  // whose result may come
};

}  // namespace

std::vector<HarmonyMessage> template_messages(const Conversation& conversation, const HarmonyOptions& options) {
  check(conversation);
  MessageWriter writer(conversation);
  writer.given(HarmonyRole::kSystem, "system", system_text(conversation, options));

  const auto& messages = conversation.messages;
  const bool has_instructions = messages[0].role == "system" || messages[0].role == "developer";
  const std::string instructions = has_instructions ? messages[0].content.value_or("") : "";
  if (!instructions.empty() || !conversation.tools.empty()) {
    std::string developer;
    if (!instructions.empty()) developer += "# Instructions\n\n" + instructions + "\n\n";
    if (!conversation.tools.empty()) developer += "# Tools\n\n" + render_tools(conversation.tools);
    writer.given(HarmonyRole::kDeveloper, "developer", developer);
    if (has_instructions) writer.last().weight = messages[0].weight;
  }
  for (std::size_t i = has_instructions ? 1 : 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      writer.assistant(messages[i], i);
    } else if (messages[i].role == "tool") {
      writer.result(messages[i], i);
    } else {
      writer.given(HarmonyRole::kUser, "user", *messages[i].content);
      writer.last().weight = messages[i].weight;
    }
  }
  return writer.take();
}

Kept kept_by_template(const std::vector<HarmonyMessage>& messages) {
  Kept kept(messages.size(), true);
  bool answer_follows = false;
  for (std::size_t i = messages.size(); i-- > 0;) {
    if (messages[i].is_analysis()) kept[i] = messages[i + 1].is_call ? !answer_follows : i + 2 == messages.size();
    answer_follows = answer_follows || messages[i].is_final();
  }
  return kept;
}

}  // namespace ossature
