#include "data/harmony/harmony_samples.h"

#include <gtest/gtest.h>

#include <map>

#include "data/records/formats.h"
#include "tests/data/made_conversations.h"

namespace ossature {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer result = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return result;
}

Harmony harmony_of(HarmonyRenderer renderer, const LearnOptions& learn) {
  HarmonyOptions options;
  options.renderer = renderer;
  options.learn = learn;
  return Harmony(tokenizer(), options);
}

LearnOptions turns(LearnedTurns which) {
  LearnOptions learn;
  learn.turns = which;
  return learn;
}

using Tokens = std::vector<std::int32_t>;

/// One call of inference: what the model is given and what it generates, as a sample teaches it.
struct Generation {
  Tokens given;
  std::string generated;
};

/// Each run of learned tokens and all that stands before it.
std::vector<Generation> learned(const std::vector<RenderedSample>& samples) {
  std::vector<Generation> result;
  for (const RenderedSample& sample : samples) {
    for (std::size_t i = 0; i < sample.tokens.size(); ++i) {
      if (!(sample.loss_weights[i] > 0.0f)) continue;
      if (i == 0 || !(sample.loss_weights[i - 1] > 0.0f)) {
        result.push_back({Tokens(sample.tokens.begin(), sample.tokens.begin() + static_cast<std::ptrdiff_t>(i)), ""});
      }
      result.back().generated += tokenizer().bytes_of(sample.tokens[i]);
    }
  }
  return result;
}

Conversation cut(const Conversation& conversation, std::size_t end) {
  Conversation result = conversation;
  result.messages.resize(end);
  return result;
}

/// What the model writes where `message` is the answer or the call.
std::string reply_text(const Message& message, HarmonyRenderer renderer) {
  const bool is_template = renderer == HarmonyRenderer::kTemplate;
  const auto said = [](const std::string& channel, const std::string& content) {
    return "<|channel|>" + channel + "<|message|>" + content + "<|end|><|start|>assistant";
  };
  std::string thinking = message.thinking.value_or(""), content = message.content.value_or("");
  if (message.tool_call && is_template && !content.empty()) std::swap(thinking, content);
  std::string text = message.thinking || !thinking.empty() ? said("analysis", thinking) : "";
  if (!message.tool_call) return text + "<|channel|>final<|message|>" + content + "<|return|>";
  if (!content.empty() && !is_template) text += said("commentary", content);
  return text + " to=functions." + message.tool_call->name + "<|channel|>commentary " +
         (is_template ? "json" : "<|constrain|>json") + "<|message|>" + message.tool_call->arguments + "<|call|>";
}

class HarmonyTurns : public testing::TestWithParam<HarmonyRenderer> {};
INSTANTIATE_TEST_SUITE_P(BothRenderers, HarmonyTurns,
                         testing::Values(HarmonyRenderer::kTemplate, HarmonyRenderer::kHarmony));

TEST_P(HarmonyTurns, ExpandedTurnsAreExactlyTheCallsOfInference) {
  const Harmony harmony = harmony_of(GetParam(), turns(LearnedTurns::kExpand));
  ConversationMaker maker(1);
  int count = 0;
  for (int round = 0; round < 2000; ++round) {
    const Conversation conversation = maker.messages(GetParam() == HarmonyRenderer::kTemplate);
    const std::vector<RenderedSample> samples = harmony.render(conversation);
    const std::vector<Generation> generations = learned(samples);
    std::size_t g = 0;
    for (std::size_t i = 0; i < conversation.messages.size(); ++i) {
      const Message& message = conversation.messages[i];
      if (message.role != "assistant") continue;
      ASSERT_LT(g, generations.size());
      // Nothing comes before an assistant that begins, so there is no prompt to compare with but the system message.
      if (i > 0) {
        ASSERT_EQ(tokenizer().decode(generations[g].given),
                  tokenizer().decode(harmony.render_prompt(cut(conversation, i))));
        ASSERT_EQ(generations[g].given, harmony.render_prompt(cut(conversation, i)));
      }
      ASSERT_EQ(generations[g].generated, reply_text(message, GetParam()));
      ++g;
    }
    ASSERT_EQ(g, generations.size());
    count += static_cast<int>(g);
  }
  EXPECT_GT(count, 4000);
}

/// Where a message of the assistant is not the continuation of what it says.
std::vector<std::size_t> beginnings(const Conversation& conversation) {
  std::vector<std::size_t> result;
  bool goes_on = false;
  for (std::size_t i = 0; i < conversation.messages.size(); ++i) {
    const Message& message = conversation.messages[i];
    const bool is_assistant = message.role == "assistant";
    if (is_assistant && !goes_on) result.push_back(i);
    goes_on = is_assistant && message.recipient.empty() && message.channel != "final";
  }
  return result;
}

TEST(HarmonySamples, ExpandedTurnsOfLibraryConversationsAreExactlyTheCallsOfInference) {
  for (const bool keep_analysis : {false, true}) {
    HarmonyOptions options;
    options.renderer = HarmonyRenderer::kHarmony;
    options.learn.turns = LearnedTurns::kExpand;
    options.keep_analysis = keep_analysis;
    const Harmony harmony(tokenizer(), options);
    ConversationMaker maker(2);
    int count = 0;
    for (int round = 0; round < 2000; ++round) {
      const Conversation conversation = maker.harmony();
      const std::vector<Generation> generations = learned(harmony.render(conversation));
      const std::vector<std::size_t> begins = beginnings(conversation);
      ASSERT_EQ(generations.size(), begins.size());
      for (std::size_t g = 0; g < begins.size(); ++g, ++count) {
        if (begins[g] == 0) continue;
        const Tokens prompt = harmony.render_prompt(cut(conversation, begins[g]));
        ASSERT_EQ(tokenizer().decode(generations[g].given), tokenizer().decode(prompt));
        ASSERT_EQ(generations[g].given, prompt);
      }
    }
    EXPECT_GT(count, 2000);
  }
}

Conversation two_turns() {
  return std::get<Conversation>(
      parse_sample(R"({"messages": [{"role": "developer", "content": "i"}, {"role": "user", "content": "q"},
      {"role": "assistant", "thinking": "s", "content": "a", "weight": 0.5}, {"role": "user", "content": "r"},
      {"role": "assistant", "thinking": "t", "tool_calls": [{"name": "f", "arguments": {}}]}, {"role": "tool", "content": "x"},
      {"role": "assistant", "thinking": "u", "content": "b"}, {"role": "user", "content": "end"}]})"));
}

/// The text of the tokens of each weight that occurs.
std::map<float, std::string> by_weight(const RenderedSample& sample) {
  std::map<float, std::string> result;
  for (std::size_t i = 0; i < sample.tokens.size(); ++i) {
    result[sample.loss_weights[i]] += tokenizer().bytes_of(sample.tokens[i]);
  }
  return result;
}

TEST(LearnOptions, WeightsMultiplyByChannel) {
  LearnOptions learn;
  learn.analysis = 0.25f;
  learn.final = 2.0f;
  learn.tool_calls = 4.0f;
  const auto text = by_weight(harmony_of(HarmonyRenderer::kHarmony, learn).render(two_turns()).front());
  EXPECT_EQ(text.at(0.25f), "<|channel|>analysis<|message|>t<|end|><|channel|>analysis<|message|>u<|end|>");
  EXPECT_EQ(text.at(4.0f),
            "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>");
  EXPECT_EQ(text.at(1.0f), "<|channel|>final<|message|>a<|end|>");
  EXPECT_EQ(text.at(2.0f), "<|start|>assistant<|channel|>final<|message|>b<|end|>");
  EXPECT_EQ(text.size(), 5u);
}

TEST(LearnOptions, ChannelsOfWeightZeroAreNotLearned) {
  LearnOptions learn;
  learn.analysis = learn.tool_calls = 0.0f;
  const auto text = by_weight(harmony_of(HarmonyRenderer::kHarmony, learn).render(two_turns()).front());
  EXPECT_EQ(text.at(1.0f), "<|start|>assistant<|channel|>final<|message|>b<|end|>");
  EXPECT_EQ(text.size(), 3u);
}

TEST(LearnOptions, TheLastTurnAloneIsLearned) {
  for (const auto renderer : {HarmonyRenderer::kTemplate, HarmonyRenderer::kHarmony}) {
    const RenderedSample all = harmony_of(renderer, {}).render(two_turns()).front();
    const RenderedSample last = harmony_of(renderer, turns(LearnedTurns::kLast)).render(two_turns()).front();
    EXPECT_EQ(last.tokens, all.tokens);
    const auto text = by_weight(last);
    EXPECT_EQ(text.count(0.5f), 0u);
    EXPECT_EQ(text.at(1.0f), by_weight(all).at(1.0f));
  }
}

TEST(LearnOptions, OtherRolesAreLearnedBehindTheirHeadersAndOnce) {
  LearnOptions learn;
  learn.user = 3.0f;
  learn.tool = 4.0f;
  learn.developer = 5.0f;
  for (const LearnedTurns which : {LearnedTurns::kAll, LearnedTurns::kExpand}) {
    learn.turns = which;
    std::map<float, std::string> text;
    for (const RenderedSample& sample : harmony_of(HarmonyRenderer::kHarmony, learn).render(two_turns())) {
      for (const auto& [weight, part] : by_weight(sample)) text[weight] += part;
    }
    EXPECT_EQ(text.at(3.0f), std::string("<|message|>q<|end|><|message|>r<|end|>") +
                                 (which == LearnedTurns::kAll ? "<|message|>end<|end|>" : ""));
    EXPECT_EQ(text.at(4.0f), "<|channel|>commentary<|message|>x<|end|>");
    EXPECT_EQ(text.at(5.0f), "<|message|># Instructions\n\ni<|end|>");
  }
}

TEST(LearnOptions, TurnsInWhichNothingIsLearnedGiveNoSample) {
  Conversation conversation = two_turns();
  conversation.messages[2].weight = 0.0f;
  const Harmony harmony = harmony_of(HarmonyRenderer::kTemplate, turns(LearnedTurns::kExpand));
  EXPECT_EQ(harmony.render(conversation).size(), 1u);
  for (Message& message : conversation.messages) message.weight = 0.0f;
  ASSERT_EQ(harmony.render(conversation).size(), 1u);
  EXPECT_EQ(by_weight(harmony.render(conversation).front()).size(), 1u);
}

TEST(LearnOptions, CountsLearnedTokensByChannel) {
  for (const LearnedTurns which : {LearnedTurns::kAll, LearnedTurns::kLast, LearnedTurns::kExpand}) {
    for (const RenderedSample& sample : harmony_of(HarmonyRenderer::kHarmony, turns(which)).render(two_turns())) {
      std::int64_t learned_tokens = 0;
      for (const float weight : sample.loss_weights) learned_tokens += weight > 0.0f;
      const auto& by = sample.learned_by_channel;
      EXPECT_EQ(by[0] + by[1] + by[2], learned_tokens);
    }
  }
}

}  // namespace
}  // namespace ossature
