#include "train/evaluation/evaluate.h"

#include <ATen/ATen.h>

#include <cmath>

#include "model/adapter/loaded_model.h"
#include "tests/support/golden.h"
#include "tests/train/small_run.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

class Evaluate : public ::testing::Test {
 protected:
  [[nodiscard]] std::shared_ptr<const TokenFileReader> file(const std::vector<TokenSample>& samples) const {
    return std::make_shared<const TokenFileReader>(write_tokens(scratch_.path() / "tokens.h5", samples));
  }

  Scratch scratch_;
  LoadedModel model_ = load_model(small_golden() / "hf", std::nullopt, at::kFloat);
};

TEST_F(Evaluate, LogProbabilitiesAndLossAreThePeers) {
  const testing::Golden golden(small_golden());
  std::vector<TokenSample> samples;
  for (std::int64_t n = 0; n < golden.num_rows(); ++n) {
    const TokenRows row = golden.row(n);
    samples.push_back({{row.tokens.begin(), row.tokens.end()}, {row.loss_weights.begin(), row.loss_weights.end()}});
  }
  samples[0].loss_weights[3] = 0.25f;
  const auto tokens = file(samples);
  LossSum sum;
  const std::vector<float> found = log_probs(model_.transformer, tokens, 1000, sum);

  const at::Tensor expected = golden.log_probs("logits");
  double loss = 0.0, weight = 0.0;
  std::int64_t learned = 0;
  std::size_t t = 0;
  for (const TokenSample& sample : samples) {
    for (std::size_t i = 0; i < sample.tokens.size(); ++i, ++t) {
      if (i == 0) {
        EXPECT_TRUE(std::isnan(found[t]));
        continue;
      }
      const double peer = expected[static_cast<std::int64_t>(t) - 1][sample.tokens[i]].item<double>();
      EXPECT_NEAR(found[t], peer, 1e-4) << t;
      loss -= sample.loss_weights[i] * peer;
      weight += sample.loss_weights[i];
      learned += sample.loss_weights[i] > 0 ? 1 : 0;
    }
  }
  ASSERT_EQ(t, found.size());
  for (const LossSum& ours : {sum, evaluate(model_.transformer, tokens, 1000)}) {
    EXPECT_NEAR(ours.loss / weight, loss / weight, 1e-4);
    EXPECT_DOUBLE_EQ(ours.weight, weight);
    EXPECT_EQ(ours.num_learned, learned);
  }
}

TEST_F(Evaluate, IsIndependentOfTheBatches) {
  std::vector<TokenSample> samples = random_samples(9, 7);
  samples.insert(samples.begin() + 2, {{5}, {1.0f}});  // one token: nothing to predict
  samples.insert(samples.begin() + 4, TokenSample{});
  const auto tokens = file(samples);
  LossSum all_at_once;
  const std::vector<float> expected = log_probs(model_.transformer, tokens, 1000, all_at_once);
  ASSERT_EQ(static_cast<std::int64_t>(expected.size()), tokens->num_tokens());
  for (const std::int64_t max_tokens : {1, 7, 20}) {
    LossSum sum;
    const std::vector<float> found = log_probs(model_.transformer, tokens, max_tokens, sum);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t t = 0; t < found.size(); ++t) {
      ASSERT_EQ(std::isnan(found[t]), std::isnan(expected[t])) << t;
      if (std::isnan(expected[t])) continue;
      EXPECT_NEAR(found[t], expected[t], 1e-5) << t << " by " << max_tokens;
    }
    for (const LossSum& part : {sum, evaluate(model_.transformer, tokens, max_tokens)}) {
      EXPECT_NEAR(part.loss, all_at_once.loss, 1e-4);
      EXPECT_DOUBLE_EQ(part.weight, all_at_once.weight);
      EXPECT_EQ(part.num_learned, all_at_once.num_learned);
    }
  }
}

TEST_F(Evaluate, ProgressHearsEveryToken) {
  const auto tokens = file(random_samples(5, 8));
  std::vector<std::int64_t> heard;
  static_cast<void>(evaluate(model_.transformer, tokens, 16, false, [&](std::int64_t done) { heard.push_back(done); }));
  ASSERT_GT(heard.size(), 1u);
  EXPECT_TRUE(std::is_sorted(heard.begin(), heard.end()));
  EXPECT_EQ(heard.back(), tokens->num_tokens());
}

TEST_F(Evaluate, NothingLearnedIsNoLoss) {
  std::vector<TokenSample> samples = random_samples(2, 9);
  for (TokenSample& sample : samples) sample.loss_weights.assign(sample.tokens.size(), 0.0f);
  const LossSum sum = evaluate(model_.transformer, file(samples), 1000);
  EXPECT_EQ(sum.loss, 0.0);
  EXPECT_EQ(sum.weight, 0.0);
  EXPECT_EQ(sum.num_learned, 0);
}

}  // namespace
}  // namespace ossature
