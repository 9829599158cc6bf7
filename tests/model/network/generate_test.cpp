// The decoder with its key-value cache against the whole sequence at once; sampling against its probabilities.
#include "model/network/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include <ATen/ATen.h>

#include "model/adapter/loaded_model.h"
#include "model/network/head.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

using testing::Golden;

class DecoderTest : public ::testing::Test {
 protected:
  Golden golden_{std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small"};
  LoadedModel model_ = load_model(golden_.dir() / "hf", golden_.dir() / "adapter", at::kFloat);
  TokenRows row_ = golden_.row(0);
  at::Tensor expected_ = head_logits(model_.transformer, forward(model_.transformer, row_));

  void expect_logits_after(std::int64_t num_tokens, const at::Tensor& found) {
    const at::Tensor expected = expected_[num_tokens - 1];
    // Logits of up to 6, summed in another order by each set of instructions: 1e-5 to 2e-5 apart.
    EXPECT_LT((found - expected).abs().max().item<double>(), 4e-5) << "after " << num_tokens << " tokens";
  }
};

TEST_F(DecoderTest, TokenByTokenEqualsTheWholeSample) {
  // The sample is several times longer than the model's window of 8.
  ASSERT_GT(row_.tokens.size(), 24u);
  Decoder decoder(model_.transformer);
  for (std::size_t t = 0; t < row_.tokens.size(); ++t) {
    expect_logits_after(static_cast<std::int64_t>(t) + 1, decoder.feed(row_.tokens.subspan(t, 1)));
  }
}

TEST_F(DecoderTest, PiecesOfAnyLengthEqualTheWholeSample) {
  for (const std::vector<std::size_t>& pieces :
       {std::vector<std::size_t>{5, 1, 9, 3}, std::vector<std::size_t>{13, 1, 1, 4}, std::vector<std::size_t>{1, 20}}) {
    Decoder decoder(model_.transformer);
    std::size_t done = 0;
    for (const std::size_t piece : pieces) {
      const at::Tensor logits = decoder.feed(row_.tokens.subspan(done, piece));
      done += piece;
      expect_logits_after(static_cast<std::int64_t>(done), logits);
    }
  }
}

/// The most probable continuation of a prompt, and what a decoder with a cache says at each of its places.
struct Continuation {
  std::vector<at::Tensor> cached, whole;  // logits; whole: from all tokens anew
};

Continuation continue_prompt(const Transformer& transformer, std::span<const std::int32_t> prompt, int count) {
  Continuation found;
  Decoder decoder(transformer);
  std::vector<std::int32_t> so_far(prompt.begin(), prompt.end());
  at::Tensor logits = decoder.feed(prompt);
  for (int n = 0; n < count; ++n) {
    found.cached.push_back(logits);
    found.whole.push_back(Decoder(transformer).feed(so_far));
    so_far.push_back(static_cast<std::int32_t>(found.whole.back().argmax().item<std::int64_t>()));
    logits = decoder.feed({&so_far.back(), 1});
  }
  return found;
}

/// Runs check(model, prompt) for every golden's prompts, which are longer than its model's window.
void for_prompts(at::ScalarType dtype, const auto& check) {
  for (const std::string& dir : testing::golden_dirs()) {
    const Golden golden(dir);
    const LoadedModel model = load_model(golden.dir() / "hf", golden.dir() / "adapter-trained", dtype);
    for (std::int64_t row = 0; row < golden.num_rows(); ++row) {
      SCOPED_TRACE(dir + " row " + std::to_string(row));
      const std::span<const std::int32_t> prompt = golden.row(row).tokens;
      ASSERT_GT(static_cast<std::int64_t>(prompt.size()), model.transformer.config().sliding_window);
      check(golden, model.transformer, prompt);
    }
  }
}

TEST(CachedDecoding, GivesTheTokensOfTheWholeSequence) {
  for_prompts(at::kFloat, [](const Golden&, const Transformer& transformer, std::span<const std::int32_t> prompt) {
    const Continuation found = continue_prompt(transformer, prompt, 24);
    for (std::size_t n = 0; n < found.whole.size(); ++n) {
      EXPECT_EQ(found.cached[n].argmax().item<std::int64_t>(), found.whole[n].argmax().item<std::int64_t>()) << n;
      EXPECT_LT((found.cached[n] - found.whole[n]).abs().max().item<double>(), 1e-4) << n;
    }
  });
}

/// With random weights the best two tokens may be closer than bfloat16 tells apart; then either is right.
TEST(CachedDecoding, GivesTheTokensOfTheWholeSequenceInBFloat16) {
  std::int64_t clear = 0, all = 0;
  for_prompts(at::kBFloat16,
              [&](const Golden& golden, const Transformer& transformer, std::span<const std::int32_t> prompt) {
                const LoadedModel exact = load_model(golden.dir() / "hf", golden.dir() / "adapter-trained", at::kFloat);
                const Continuation found = continue_prompt(transformer, prompt, 24);
                std::vector<std::int32_t> so_far(prompt.begin(), prompt.end());
                double cached_error = 0.0, whole_error = 0.0;
                for (std::size_t n = 0; n < found.whole.size(); ++n, ++all) {
                  const at::Tensor expected = Decoder(exact.transformer).feed(so_far);
                  const double rounding = (found.whole[n] - expected).abs().max().item<double>();
                  cached_error += (found.cached[n] - expected).square().sum().item<double>();
                  whole_error += (found.whole[n] - expected).square().sum().item<double>();
                  const auto [best, ids] = found.whole[n].topk(2);
                  so_far.push_back(static_cast<std::int32_t>(ids[0].item<std::int64_t>()));
                  if ((best[0] - best[1]).item<double>() < 2 * rounding) continue;
                  ++clear;
                  EXPECT_EQ(found.cached[n].argmax().item<std::int64_t>(), so_far.back()) << n;
                }
                EXPECT_LT(cached_error, 1.2 * whole_error) << "a cache must not cost accuracy";
              });
  EXPECT_GT(clear, all / 2) << "places where the best token stands out";
}

TEST_F(DecoderTest, GoesBackToAMark) {
  Decoder decoder(model_.transformer);
  for (const std::size_t place : {0u, 3u, 14u}) {  // before, within and past the window
    decoder.rewind({});
    if (place > 0) (void)decoder.feed(row_.tokens.first(place));
    const Decoder::Mark mark = decoder.mark();
    const std::vector<std::int32_t> others(19, 5);
    for (int turn = 0; turn < 2; ++turn) {
      (void)decoder.feed(others);
      (void)decoder.feed({others.data(), 1});
      decoder.rewind(mark);
      EXPECT_EQ(decoder.num_tokens(), static_cast<std::int64_t>(place));
    }
    std::size_t done = place;
    for (const std::size_t piece : {2u, 1u, 6u}) {
      const at::Tensor logits = decoder.feed(row_.tokens.subspan(done, piece));
      done += piece;
      expect_logits_after(static_cast<std::int64_t>(done), logits);
    }
  }
}

TEST_F(DecoderTest, RefusesNoTokens) {
  Decoder decoder(model_.transformer);
  EXPECT_THROW((void)decoder.feed({}), std::invalid_argument);
}

TEST(KeyValueCache, KeepsTheWindowAndOneCallMore) {
  KeyValueCache cache(4);
  float next = 0.0f;
  for (int n = 0; n < 400; ++n) {
    const at::Tensor row = at::full({1, 2, 3}, next++);
    cache.append({row, -row});
    const KeyValue kept = cache.view();
    ASSERT_LE(kept.key.size(0), 5);
    ASSERT_GE(kept.key.size(0), std::min(n + 1, 4));
    for (std::int64_t i = 0; i < kept.key.size(0); ++i) {
      ASSERT_EQ(kept.key[i][1][2].item<float>(), next - static_cast<float>(kept.key.size(0) - i));
      ASSERT_EQ(kept.value[i][0][0].item<float>(), -kept.key[i][0][0].item<float>());
    }
  }
}

TEST(SampleToken, ZeroTemperatureTakesTheMostProbable) {
  std::mt19937_64 generator(1);
  EXPECT_EQ(sample_token(at::tensor({0.0f, 2.0f, 1.9f}), {}, generator), 1);
}

std::map<std::int32_t, double> frequencies(const SamplingOptions& options) {
  const at::Tensor logits = at::tensor({std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)});
  std::mt19937_64 generator(42);
  std::map<std::int32_t, double> counts;
  for (int n = 0; n < 20000; ++n) counts[sample_token(logits, options, generator)] += 1.0 / 20000;
  return counts;
}

TEST(SampleToken, DrawsByProbability) {
  auto found = frequencies({1.0, 0, 1.0});
  const double expected[] = {0.1, 0.4, 0.2, 0.3};
  for (std::int32_t i = 0; i < 4; ++i) EXPECT_NEAR(found[i], expected[i], 0.015) << i;
}

TEST(SampleToken, TemperatureSharpens) {
  auto found = frequencies({0.5, 0, 1.0});  // probabilities squared: 1, 16, 4, 9 of 30
  EXPECT_NEAR(found[1], 16.0 / 30, 0.015);
  EXPECT_NEAR(found[0], 1.0 / 30, 0.01);
}

TEST(SampleToken, TopKAndTopPRestrict) {
  EXPECT_EQ(frequencies({1.0, 2, 1.0}).size(), 2u);
  EXPECT_NEAR(frequencies({1.0, 2, 1.0})[1], 4.0 / 7, 0.015);
  EXPECT_EQ(frequencies({1.0, 0, 0.65}).size(), 2u);  // 0.4 + 0.3 reach it
  EXPECT_EQ(frequencies({1.0, 0, 0.75}).size(), 3u);
  EXPECT_EQ(frequencies({1.0, 0, 0.0}).size(), 1u);
}

}  // namespace
}  // namespace ossature
