#include "data/harmony/harmony_reply.h"

#include <gtest/gtest.h>

#include "data/harmony/harmony.h"
#include "tests/data/spelled_tokens.h"

namespace ossature {
namespace {

const Harmony& fixture_harmony() {
  static const Harmony harmony(Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures"),
                               "2026-01-15");
  return harmony;
}

/// Each message as "channel|recipient|content", with "..." if it is cut.
std::vector<std::string> parsed(std::string_view text) {
  std::vector<std::string> result;
  for (const auto& m : parse_reply(fixture_harmony().tokenizer(), tokens_of(fixture_harmony().tokenizer(), text))) {
    result.push_back(m.channel + "|" + m.recipient + "|" + m.content + (m.complete ? "" : "..."));
  }
  return result;
}

using Messages = std::vector<std::string>;

TEST(HarmonyReply, ThinkingAndAnswer) {
  EXPECT_EQ(parsed("<|channel|>analysis<|message|>Hm. 2 < 3\n<|end|><|start|>assistant<|channel|>final<|message|>Yes — "
                   "日本!<|return|>"),
            (Messages{"analysis||Hm. 2 < 3\n", "final||Yes — 日本!"}));
  EXPECT_EQ(parsed("<|channel|>final<|message|><|return|>"), Messages{"final||"});
  EXPECT_EQ(parsed("<|channel|>final<|message|>a<|end|>"), Messages{"final||a"});
}

TEST(HarmonyReply, TheRecipientStandsBeforeOrAfterTheChannel) {
  const Messages call = {"commentary|functions.f|{\"a\": 1}"};
  EXPECT_EQ(parsed(" to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}<|call|>"), call);
  EXPECT_EQ(parsed("<|channel|>commentary to=functions.f json<|message|>{\"a\": 1}<|call|>"), call);
  EXPECT_EQ(parsed("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>"), call);
  EXPECT_EQ(parsed("<|channel|>commentary to=functions.f<|constrain|>json<|message|>{\"a\": 1}<|call|>"), call);
  EXPECT_EQ(parsed(" to=functions.f<|channel|>commentary<|constrain|>json<|message|>{\"a\": 1}<|call|>"), call);
  EXPECT_EQ(parsed("<|channel|>analysis<|message|>t<|end|><|start|>assistant to=python<|channel|>analysis "
                   "code<|message|>1+1<|call|>"),
            (Messages{"analysis||t", "analysis|python|1+1"}));
  EXPECT_EQ(parsed("<|channel|>to=functions.f<|message|>{}<|call|>"), Messages{"|functions.f|{}"});
  EXPECT_EQ(parsed("<|channel|>commentary<|message|>I shall look.<|end|><|start|>assistant<|channel|>commentary "
                   "to=functions.f<|message|>{}<|call|>"),
            (Messages{"commentary||I shall look.", "commentary|functions.f|{}"}));
}

TEST(HarmonyReply, ACutReplyKeepsWhatIsThere) {
  EXPECT_EQ(parsed(""), Messages{});
  EXPECT_EQ(parsed("<|channel|>"), Messages{"||..."});
  EXPECT_EQ(parsed("<|channel|>final"), Messages{"final||..."});
  EXPECT_EQ(parsed("<|channel|>final<|message|>"), Messages{"final||..."});
  EXPECT_EQ(parsed("<|channel|>final<|message|>It is"), Messages{"final||It is..."});
  const std::string thinking = "<|channel|>analysis<|message|>t<|end|>";
  EXPECT_EQ(parsed(thinking), Messages{"analysis||t"});
  EXPECT_EQ(parsed(thinking + "<|start|>"), Messages{"analysis||t"});
  EXPECT_EQ(parsed(thinking + "<|start|>assistant"), Messages{"analysis||t"});
  EXPECT_EQ(parsed(thinking + "<|start|>assistant<|channel|>final<|message|>a"),
            (Messages{"analysis||t", "final||a..."}));
}

TEST(HarmonyReply, TextOutsideOfTheFormatIsContent) {
  EXPECT_EQ(parsed("Hello there."), Messages{"||Hello there...."});
  EXPECT_EQ(parsed("Hello<|return|>"), Messages{"||Hello"});
  EXPECT_EQ(parsed("<|message|>Hello<|return|>"), Messages{"||Hello"});
  EXPECT_EQ(parsed("<|return|>"), Messages{});
  EXPECT_EQ(parsed("<|end|><|end|><|start|><|start|>"), Messages{});
  // A message that was not ended, and markers within content.
  EXPECT_EQ(parsed("<|channel|>analysis<|message|>t<|start|>assistant<|channel|>final<|message|>a<|return|>"),
            (Messages{"analysis||t...", "final||a"}));
  EXPECT_EQ(parsed("<|channel|>final<|message|>a<|channel|>b<|message|>c<|constrain|>d<|return|>"),
            Messages{"final||a<|channel|>b<|message|>c<|constrain|>d"});
  EXPECT_EQ(parsed("<|channel|>made up words<|message|>a<|return|>"), Messages{"made||a"});
}

TEST(HarmonyReply, IdsWithoutTokenSurvive) {
  const Tokenizer& tokenizer = fixture_harmony().tokenizer();
  auto tokens = tokens_of(tokenizer, "<|channel|>final<|message|>a");
  for (const std::int32_t id : {-1, INT32_MIN, INT32_MAX, static_cast<std::int32_t>(tokenizer.vocab_size())}) {
    tokens.push_back(id);
    tokens.insert(tokens.begin(), id);
  }
  const auto messages = parse_reply(tokenizer, tokens);
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].channel, "final");
  EXPECT_EQ(messages[0].content, "a");
}

TEST(HarmonyReply, ContentOfAChannelLeavesOutCalls) {
  const auto messages =
      parse_reply(fixture_harmony().tokenizer(),
                  tokens_of(fixture_harmony().tokenizer(),
                            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis "
                            "to=python<|message|>no<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"));
  EXPECT_EQ(content_of(messages, "analysis"), "ab");
  EXPECT_EQ(content_of(messages, "final"), "");
}

TEST(HarmonyReply, TakesApartWhatHarmonyRenders) {
  const Harmony& harmony = fixture_harmony();
  Conversation conversation;
  conversation.messages.resize(2);
  conversation.messages[0].role = "user";
  conversation.messages[0].content = "What is 2 + 2?";
  Message& answer = conversation.messages[1];
  answer.role = "assistant";
  const auto reply_of = [&] {
    Conversation question = conversation;
    question.messages.pop_back();
    const auto prompt = harmony.render_prompt(question);
    const auto whole = harmony.render(conversation).front().tokens;
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), whole.begin()));
    return parse_reply(harmony.tokenizer(), std::span(whole).subspan(prompt.size()));
  };
  answer.thinking = "Easy: it's 4.\n";
  answer.content = "2 + 2 = **4** — <|end|> as text";
  auto reply = reply_of();
  ASSERT_EQ(reply.size(), 2u);
  EXPECT_EQ(reply[0].channel, "analysis");
  EXPECT_EQ(reply[0].content, answer.thinking);
  EXPECT_EQ(reply[1].channel, "final");
  EXPECT_EQ(reply[1].content, answer.content);
  EXPECT_EQ(reply[1].recipient, "");
  EXPECT_TRUE(reply[0].complete && reply[1].complete);

  answer.content.reset();
  answer.tool_call = ToolCall{"add", R"({"a": 2, "b": 2})", "json"};
  reply = reply_of();
  ASSERT_EQ(reply.size(), 2u);
  EXPECT_EQ(reply[0].content, answer.thinking);
  EXPECT_EQ(reply[1].channel, "commentary");
  EXPECT_EQ(reply[1].recipient, "functions.add");
  EXPECT_EQ(reply[1].content, answer.tool_call->arguments);
  EXPECT_TRUE(reply[1].complete);
}

}  // namespace
}  // namespace ossature
