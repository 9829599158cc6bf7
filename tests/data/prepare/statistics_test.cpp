#include "data/prepare/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/data/spelled_tokens.h"

namespace ossature {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer fixture = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return fixture;
}

TEST(Statistics, CountsByKind) {
  TokenStatistics statistics(HarmonyTokens::of(tokenizer()));
  const auto question = tokens_of(tokenizer(), "<|start|>user<|message|>hi<|end|>");
  const auto analysis = tokens_of(tokenizer(), "<|start|>assistant<|channel|>analysis<|message|>so<|end|>");
  const auto answer = tokens_of(tokenizer(), "<|start|>assistant<|channel|>final<|message|>yes<|return|>");
  auto tokens = question;
  tokens.insert(tokens.end(), analysis.begin(), analysis.end());
  tokens.insert(tokens.end(), answer.begin(), answer.end());
  std::vector<float> weights(question.size(), 0.0f);
  weights.resize(weights.size() + analysis.size(), 0.5f);
  weights.resize(weights.size() + answer.size(), 1.0f);
  statistics.add(tokens, weights);
  statistics.add(question, std::vector<float>(question.size(), 0.0f));
  const auto text = tokens_of(tokenizer(), "plain");
  statistics.add(text, std::vector<float>(text.size(), 1.0f));
  statistics.add({}, {});

  EXPECT_EQ(statistics.samples(), 4);
  EXPECT_EQ(statistics.samples_without_learned(), 2);
  EXPECT_EQ(statistics.longest(), static_cast<std::int64_t>(tokens.size()));
  const auto size = [](const auto& values) { return static_cast<std::int64_t>(values.size()); };
  EXPECT_EQ(statistics.of(SegmentKind::kAnalysis).learned, size(analysis));
  EXPECT_EQ(statistics.of(SegmentKind::kAnalysis).weight, 0.5 * static_cast<double>(size(analysis)));
  EXPECT_EQ(statistics.of(SegmentKind::kFinal).segments, 1);
  EXPECT_EQ(statistics.of(SegmentKind::kFinal).learned, size(answer));
  EXPECT_EQ(statistics.of(SegmentKind::kOther).segments, 2);
  EXPECT_EQ(statistics.of(SegmentKind::kOther).tokens, 2 * size(question));
  EXPECT_EQ(statistics.of(SegmentKind::kOther).learned, 0);
  EXPECT_EQ(statistics.of(SegmentKind::kText).learned, size(text));
  EXPECT_EQ(statistics.total().tokens, size(tokens) + size(question) + size(text));
  EXPECT_EQ(statistics.total().learned, size(analysis) + size(answer) + size(text));
}

TEST(Statistics, MergedPartsAreTheWhole) {
  std::mt19937 random(3);
  const HarmonyTokens ids = HarmonyTokens::of(tokenizer());
  TokenStatistics whole(ids), first(ids), second(ids);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::int32_t> tokens(random() % 300);
    std::vector<float> weights(tokens.size());
    for (auto& token : tokens)
      token = static_cast<std::int32_t>(random() % static_cast<unsigned>(tokenizer().vocab_size()));
    for (auto& weight : weights) weight = static_cast<float>(random() % 3) * 0.5f;
    whole.add(tokens, weights);
    (random() % 2 ? first : second).add(tokens, weights);
  }
  first.merge(second);
  EXPECT_EQ(first.samples(), whole.samples());
  EXPECT_EQ(first.samples_without_learned(), whole.samples_without_learned());
  EXPECT_EQ(first.longest(), whole.longest());
  for (std::size_t kind = 0; kind < kNumSegmentKinds; ++kind) {
    const SegmentCounts &a = first.of(SegmentKind(kind)), &b = whole.of(SegmentKind(kind));
    EXPECT_EQ(a.segments, b.segments);
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.learned, b.learned);
    EXPECT_EQ(a.weight, b.weight);
  }
  for (const double q : {0.0, 0.1, 0.5, 0.99, 1.0}) EXPECT_EQ(first.lengths().quantile(q), whole.lengths().quantile(q));
  EXPECT_EQ(first.lengths().count(64, 256), whole.lengths().count(64, 256));
}

TEST(LengthHistogram, QuantilesAreWithinThreePercentOfTheSortedLengths) {
  std::mt19937_64 random(11);
  for (const double scale : {1.0, 5.0, 12.0, 30.0}) {
    LengthHistogram histogram;
    std::vector<std::int64_t> lengths(5001);
    for (auto& length : lengths) {
      length = static_cast<std::int64_t>(std::exp(scale * static_cast<double>(random() % 100000) / 1e5));
      histogram.add(length);
    }
    std::sort(lengths.begin(), lengths.end());
    for (const double q : {0.0, 0.25, 0.5, 0.75, 0.9, 1.0}) {
      const auto exact = static_cast<double>(lengths[static_cast<std::size_t>(q * 5000)]);
      const auto estimate = static_cast<double>(histogram.quantile(q));
      if (exact < 64) {
        EXPECT_EQ(estimate, exact) << scale << " " << q;
      } else {
        EXPECT_NEAR(estimate, exact, 0.03 * exact) << scale << " " << q;
      }
    }
  }
}

TEST(LengthHistogram, CountsByPowersOfTwo) {
  LengthHistogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0);
  for (const std::int64_t length :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{255}, std::int64_t{256},
        std::int64_t{511}, std::int64_t{512}, INT64_MAX, std::int64_t{-5}})
    histogram.add(length);
  EXPECT_EQ(histogram.count(0, 1), 2);  // a length cannot be negative; it would count as 0
  EXPECT_EQ(histogram.count(1, 2), 1);
  EXPECT_EQ(histogram.count(2, 4), 2);
  EXPECT_EQ(histogram.count(128, 256), 1);
  EXPECT_EQ(histogram.count(256, 512), 2);
  EXPECT_EQ(histogram.count(512, 1024), 1);
}

}  // namespace
}  // namespace ossature
