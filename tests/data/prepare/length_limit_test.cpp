#include "data/prepare/length_limit.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/data/errors.h"

namespace ossature {
namespace {

const Harmony& harmony() {
  static const Harmony instance(
      Tokenizer::load(std::string(OSSATURE_SOURCE_DIR) + "/tests/data/fixtures/tokenizer.json"), std::nullopt);
  return instance;
}

struct Result {
  std::vector<RenderedSample> samples;
  LengthReport report;
  [[nodiscard]] std::string text(std::size_t i) const { return harmony().tokenizer().decode(samples.at(i).tokens); }
};

Result apply(const RenderedSample& sample, OverLength policy, std::int64_t max_length, bool is_plain_text = false) {
  Result result;
  LengthLimit(harmony(), {max_length, policy})
      .apply(sample, is_plain_text, "chats.jsonl:7", result.samples, result.report);
  return result;
}

std::int64_t learned(const RenderedSample& sample) {
  return std::count_if(sample.loss_weights.begin(), sample.loss_weights.end(), [](float w) { return w > 0; });
}

std::int64_t size_of(const RenderedSample& sample) {
  return static_cast<std::int64_t>(sample.tokens.size());
}

RenderedSample conversation(std::string_view text) {
  return harmony().render_harmony_text(text).at(0);
}

constexpr const char* kHead = "<|start|>system<|message|>You are<|end|><|start|>developer<|message|>Be kind<|end|>";
std::string turn(const std::string& question, const std::string& answer, const std::string& end = "<|end|>") {
  return "<|start|>user<|message|>" + question + "<|end|><|start|>assistant<|channel|>analysis<|message|>hm<|end|>" +
         "<|start|>assistant<|channel|>final<|message|>" + answer + end;
}

TEST(LengthLimit, WhatFitsIsLeftAlone) {
  const RenderedSample sample = harmony().render_text("one two three four");
  for (const auto policy : {OverLength::kError, OverLength::kDrop, OverLength::kTruncate, OverLength::kSplit}) {
    for (const std::int64_t limit : {std::int64_t{0}, size_of(sample), size_of(sample) + 1}) {
      const Result result = apply(sample, policy, limit, true);
      ASSERT_EQ(result.samples.size(), 1u);
      EXPECT_EQ(result.samples[0].tokens, sample.tokens);
      EXPECT_EQ(result.samples[0].loss_weights, sample.loss_weights);
      EXPECT_EQ(result.report.dropped.count + result.report.truncated.count + result.report.split.count, 0);
    }
  }
}

TEST(LengthLimit, ErrorNamesThePlaceAndBothLengths) {
  const RenderedSample sample = harmony().render_text("one two three four");
  expect_data_error([&] { (void)apply(sample, OverLength::kError, 3, true); },
                    "chats.jsonl:7: " + std::to_string(sample.tokens.size()) + " tokens, expected at most 3");
}

TEST(LengthLimit, DroppedIsListed) {
  const RenderedSample sample = harmony().render_text("one two three four");
  const Result result = apply(sample, OverLength::kDrop, 3, true);
  EXPECT_TRUE(result.samples.empty());
  EXPECT_EQ(result.report.dropped.first,
            std::vector<std::string>{"chats.jsonl:7: " + std::to_string(sample.tokens.size()) + " tokens"});
}

TEST(LengthLimit, TruncationSaysWhatLearnedTokensItCost) {
  const RenderedSample sample = conversation(kHead + turn("why", "because it is so", "<|return|>"));
  // The last tokens are learned: cutting into them is counted.
  const Result cut = apply(sample, OverLength::kTruncate, size_of(sample) - 2);
  ASSERT_EQ(cut.samples.size(), 1u);
  EXPECT_EQ(size_of(cut.samples[0]), size_of(sample) - 2);
  EXPECT_EQ(cut.samples[0].loss_weights.size(), cut.samples[0].tokens.size());
  EXPECT_EQ(cut.report.truncated.count, 1);
  EXPECT_EQ(cut.report.truncated_learned.count, 1);
  EXPECT_EQ(cut.report.learned_tokens_lost, 2);
  // A question behind the last answer is not learned: nothing is lost.
  const RenderedSample open = conversation(kHead + turn("why", "so") + "<|start|>user<|message|>really<|end|>");
  const Result harmless = apply(open, OverLength::kTruncate, size_of(open) - 1);
  EXPECT_EQ(harmless.report.truncated.count, 1);
  EXPECT_EQ(harmless.report.truncated_learned.count, 0);
  // Only the prompt is left: dropped, and said so.
  const Result nothing = apply(sample, OverLength::kTruncate, 5);
  EXPECT_TRUE(nothing.samples.empty());
  EXPECT_EQ(nothing.report.truncated.count, 0);
  EXPECT_NE(nothing.report.dropped.first.at(0).find("nothing is learned in the first 5"), std::string::npos);
}

TEST(LengthLimit, PartsOfTextLearnEveryTokenOnce) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "word " + std::to_string(i) + " ";
  const RenderedSample sample = harmony().render_text(text);
  for (const std::int64_t limit : {2, 3, 10, 64}) {
    const Result result = apply(sample, OverLength::kSplit, limit, true);
    std::vector<std::int32_t> joined = {sample.tokens[0]};
    std::int64_t total = 0;
    for (const RenderedSample& part : result.samples) {
      EXPECT_LE(size_of(part), limit);
      EXPECT_EQ(part.tokens.front(), joined.back());
      EXPECT_EQ(part.loss_weights.front(), 0.0f);
      joined.insert(joined.end(), part.tokens.begin() + 1, part.tokens.end());
      total += learned(part);
    }
    EXPECT_EQ(joined, sample.tokens);
    EXPECT_EQ(total, learned(sample));
    EXPECT_EQ(result.report.split.count, 1);
  }
}

TEST(LengthLimit, ConversationsAreSplitBetweenTurnsOnly) {
  const std::string first = turn("one", "alpha"), second = turn("two", "beta"),
                    third = turn("three", "gamma", "<|return|>");
  const RenderedSample sample = conversation(kHead + first + second + third);
  const std::int64_t two_turns = size_of(conversation(kHead + second + third));
  const Result result = apply(sample, OverLength::kSplit, two_turns);
  ASSERT_EQ(result.samples.size(), 2u);
  // As many turns as fit with the end, the rest before; a part ends as a conversation does.
  EXPECT_EQ(result.text(0), kHead + turn("one", "alpha", "<|return|>"));
  EXPECT_EQ(result.text(1), kHead + second + third);
  EXPECT_EQ(learned(result.samples[0]) + learned(result.samples[1]), learned(sample));
  EXPECT_NE(result.report.split.first.at(0).find("in 2 parts"), std::string::npos);
  EXPECT_EQ(result.report.turns_dropped.count, 0);
}

TEST(LengthLimit, CallsStayWithTheirResults) {
  const std::string call =
      "<|start|>user<|message|>weather<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}"
      "<|call|><|start|>functions.f to=assistant<|channel|>commentary<|message|>rain<|end|>"
      "<|start|>assistant<|channel|>final<|message|>It rains<|end|>";
  const RenderedSample sample = conversation(kHead + turn("one", "alpha") + call + turn("two", "beta", "<|return|>"));
  const Result result = apply(sample, OverLength::kSplit, size_of(conversation(kHead + call)));
  ASSERT_EQ(result.samples.size(), 3u);
  EXPECT_NE(result.text(1).find("<|call|>"), std::string::npos);
  EXPECT_NE(result.text(1).find("It rains<|return|>"), std::string::npos);
}

TEST(LengthLimit, TurnsThatAreTooLongAloneAreDroppedAndListed) {
  std::string many;
  for (int i = 0; i < 60; ++i) many += "long " + std::to_string(i) + " ";
  const RenderedSample sample = conversation(kHead + turn("one", "alpha") + turn("two", many) + turn("three", "gamma"));
  const Result result = apply(sample, OverLength::kSplit, 60);
  ASSERT_EQ(result.samples.size(), 2u);
  EXPECT_EQ(result.text(0), kHead + turn("one", "alpha", "<|return|>"));
  EXPECT_EQ(result.text(1), kHead + turn("three", "gamma", "<|return|>"));
  EXPECT_EQ(result.report.turns_dropped.count, 1);
  EXPECT_NE(result.report.turns_dropped.first.at(0).find("turn 2 alone has "), std::string::npos);
  // Nothing fits: the sample is dropped.
  const Result nothing = apply(sample, OverLength::kSplit, 8);
  EXPECT_TRUE(nothing.samples.empty());
  EXPECT_EQ(nothing.report.dropped.count, 1);
}

TEST(LengthLimit, PartsThatTeachNothingAreLeftOut) {
  // As of an expanded conversation: only the last turn is learned.
  RenderedSample sample = conversation(kHead + turn("one", "alpha") + turn("two", "beta") + turn("three", "gamma"));
  const std::int64_t last = size_of(conversation(kHead + turn("three", "gamma"))) - size_of(conversation(kHead));
  std::fill(sample.loss_weights.begin(), sample.loss_weights.end() - last, 0.0f);
  const Result result = apply(sample, OverLength::kSplit, size_of(sample) - 1);
  ASSERT_EQ(result.samples.size(), 1u);
  EXPECT_EQ(result.text(0), kHead + turn("two", "beta") + turn("three", "gamma", "<|return|>"));
  EXPECT_NE(result.report.split.first.at(0).find("in 1 part"), std::string::npos);
}

TEST(LengthLimit, RefusesUnknownNames) {
  EXPECT_EQ(over_length("split"), OverLength::kSplit);
  expect_data_error([] { (void)over_length("cut"); }, "expected error, drop, truncate or split");
}

}  // namespace
}  // namespace ossature
