#include "data/harmony.h"

#include <ctime>

#include "data/harmony_tools.h"
#include "data/python_json.h"

namespace ossature {
namespace {

std::int32_t special(const Tokenizer& tokenizer, const char* name) {
  const auto id = tokenizer.special(name);
  if (!id)
    throw DataError(std::string("the tokenizer has no special token ") + name +
                    "; use the tokenizer of a gpt-oss checkpoint");
  return *id;
}

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

void check(const Conversation& conversation) {
  if (conversation.messages.empty()) throw DataError("the conversation has no message");
  for (std::size_t i = 0; i < conversation.messages.size(); ++i) {
    const Message& message = conversation.messages[i];
    const std::string& role = message.role;
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

}  // namespace

/// Builds a sample piece by piece.
class Harmony::Writer {
 public:
  explicit Writer(const Harmony& harmony) : harmony_(harmony) {}

  void token(std::int32_t id, float weight = 0.0f) {
    sample_.tokens.push_back(id);
    sample_.loss_weights.push_back(weight);
    count_learned(1, weight);
  }
  void text(std::string_view text, float weight = 0.0f) {
    const std::size_t before = sample_.tokens.size();
    harmony_.tokenizer_.encode(text, sample_.tokens);
    sample_.loss_weights.resize(sample_.tokens.size(), weight);
    count_learned(sample_.tokens.size() - before, weight);
  }

  /// A message that the model is given; most have no channel.
  void given(std::string_view header, std::string_view content, std::string_view channel = {}) {
    in_turn_ = false;
    token(harmony_.start_);
    text(header);
    if (!channel.empty()) {
      token(harmony_.channel_);
      text(channel);
    }
    token(harmony_.message_);
    text(content);
    token(harmony_.end_);
  }

  /// A message that the model generates: "assistant" + recipient, channel, content, and the token that ends it.
  void generated(std::string_view recipient, std::string_view channel, std::string_view content, std::int32_t end,
                 float weight) {
    const float prompt_weight = in_turn_ ? weight : 0.0f;
    in_turn_ = true;
    channel_index_ = channel == "analysis" ? 0 : channel == "final" ? 2 : 1;
    token(harmony_.start_, prompt_weight);
    text("assistant", prompt_weight);
    text(recipient, weight);
    token(harmony_.channel_, weight);
    text(channel, weight);
    token(harmony_.message_, weight);
    text(content, weight);
    token(end, weight);
  }

  [[nodiscard]] RenderedSample take() { return std::move(sample_); }

 private:
  void count_learned(std::size_t count, float weight) {
    if (weight > 0.0f) sample_.learned_by_channel[channel_index_] += static_cast<std::int64_t>(count);
  }

  const Harmony& harmony_;
  RenderedSample sample_;
  std::size_t channel_index_ = 0;
  bool in_turn_ = false;  // the assistant has the floor: what comes next is generated, its header too
};

Harmony::Harmony(Tokenizer tokenizer, std::optional<std::string> date)
    : tokenizer_(std::move(tokenizer)),
      date_(std::move(date)),
      start_(special(tokenizer_, "<|start|>")),
      end_(special(tokenizer_, "<|end|>")),
      message_(special(tokenizer_, "<|message|>")),
      channel_(special(tokenizer_, "<|channel|>")),
      return_(special(tokenizer_, "<|return|>")),
      call_(special(tokenizer_, "<|call|>")) {}

RenderedSample Harmony::render(const Conversation& conversation) const {
  return render(conversation, false);
}

std::vector<std::int32_t> Harmony::render_prompt(const Conversation& conversation) const {
  return render(conversation, true).tokens;
}

RenderedSample Harmony::render(const Conversation& conversation, bool is_prompt) const {
  check(conversation);
  Writer writer(*this);
  const bool has_tools = !conversation.tools.empty();
  std::string system = conversation.model_identity + "\nKnowledge cutoff: 2024-06\n";
  if (const auto& date = conversation.date ? conversation.date : date_) system += "Current date: " + *date + "\n";
  system += "\nReasoning: " + conversation.reasoning_effort + "\n\n";
  if (!conversation.builtin_tools.empty()) system += "# Tools\n\n" + render_builtin_tools(conversation.builtin_tools);
  system += "# Valid channels: analysis, commentary, final. Channel must be included for every message.";
  if (has_tools) system += "\nCalls to these tools must go to the commentary channel: 'functions'.";
  writer.given("system", system);

  const auto& messages = conversation.messages;
  const bool has_instructions = messages[0].role == "system" || messages[0].role == "developer";
  const std::string instructions = has_instructions ? messages[0].content.value_or("") : "";
  if (!instructions.empty() || has_tools) {
    std::string developer;
    if (!instructions.empty()) developer += "# Instructions\n\n" + instructions + "\n\n";
    if (has_tools) developer += "# Tools\n\n" + render_tools(conversation.tools);
    writer.given("developer", developer);
  }

  // The last message of the assistant that is an answer rather than a call: analysis before it is history.
  std::size_t last_answer = 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant" && !messages[i].tool_call) last_answer = i;
  }
  std::string last_call;
  for (std::size_t i = has_instructions ? 1 : 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role == "user") {
      writer.given("user", *message.content);
    } else if (message.role == "tool") {
      if (last_call.empty())
        throw DataError(at_message(i) + "role tool, but no tool call of the assistant comes before it");
      if (!message.name.empty() && message.name != last_call && message.name != "functions." + last_call) {
        throw DataError(at_message(i) + "a result of \"" + message.name + "\" after a call of \"" + last_call +
                        "\"; put each result after its call");
      }
      const std::string result =
          message.content_is_json ? *message.content : python_json(nlohmann::ordered_json(*message.content));
      writer.given("functions." + last_call + " to=assistant", result, "commentary");
    } else if (message.tool_call) {
      const ToolCall& call = *message.tool_call;
      const std::string analysis =
          message.content.value_or("").empty() ? message.thinking.value_or("") : *message.content;
      if (!analysis.empty() && last_answer <= i) writer.generated("", "analysis", analysis, end_, message.weight);
      writer.generated(" to=functions." + call.name, "commentary " + call.content_type, call.arguments, call_,
                       message.weight);
      last_call = call.name;
    } else if (i + 1 == messages.size() && !is_prompt) {
      if (message.thinking) writer.generated("", "analysis", *message.thinking, end_, message.weight);
      writer.generated("", "final", *message.content, return_, message.weight);
    } else {
      writer.generated("", "final", *message.content, end_, message.weight);
      last_call.clear();
    }
  }
  if (is_prompt) {
    writer.token(start_);
    writer.text("assistant");
  }
  return writer.take();
}

RenderedSample Harmony::render_text(const std::string& text) const {
  RenderedSample sample;
  sample.tokens = tokenizer_.encode(text);
  sample.loss_weights.assign(sample.tokens.size(), 1.0f);
  if (!sample.loss_weights.empty()) sample.loss_weights[0] = 0.0f;
  return sample;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &local);
  return text;
}

}  // namespace ossature
