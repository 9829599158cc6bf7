// Evaluation by groups: intervals against leaving samples out one by one, figures against the peers' log-probabilities.
#include "train/evaluation/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include <ATen/ATen.h>

#include "model/adapter/loaded_model.h"
#include "tests/support/golden.h"
#include "tests/train/small_run.h"

namespace ossature {
namespace {

TEST(Jackknife, OfAMeanIsItsStandardError) {
  // With equal denominators the jackknife is exactly s / sqrt(n): here s^2 = 5/3, n = 4.
  const Ratio found = jackknife({{1, 1}, {2, 1}, {3, 1}, {4, 1}});
  EXPECT_DOUBLE_EQ(found.value, 2.5);
  EXPECT_NEAR(found.margin.value(), 1.96 * std::sqrt(5.0 / 3.0 / 4.0), 1e-12);
}

TEST(Jackknife, LeavesOutWhatIsNoSample) {
  const Ratio with = jackknife({{1, 2}, {0, 0}, {5, 3}, {2, 2}}), without = jackknife({{1, 2}, {5, 3}, {2, 2}});
  EXPECT_EQ(with.value, without.value);
  EXPECT_EQ(with.margin, without.margin);
  EXPECT_FALSE(jackknife({{1, 2}}).margin);
  EXPECT_TRUE(std::isnan(jackknife({}).value));
}

TEST(Jackknife, CoversTheTruthAsOftenAsItSays) {
  std::mt19937 generator(5);
  std::normal_distribution<double> normal;
  int covered = 0;
  for (int n = 0; n < 2000; ++n) {
    std::vector<RatioTerm> terms;
    for (int s = 0; s < 60; ++s) {
      const double tokens = 20.0 + static_cast<double>(generator() % 200), difficulty = 2.0 + 0.5 * normal(generator);
      terms.push_back({tokens * difficulty, tokens});
    }
    const Ratio found = jackknife(terms);
    if (std::abs(found.value - 2.0) < found.margin.value()) ++covered;
  }
  EXPECT_NEAR(covered / 2000.0, 0.95, 0.025);
}

TEST(Jackknife, PairsAreNarrowerThanEachAlone) {
  const std::vector<RatioTerm> base = {{10, 4}, {30, 5}, {4, 6}, {18, 5}};
  std::vector<RatioTerm> other = base;
  for (RatioTerm& term : other) term.numerator -= 0.5 * term.denominator;
  const Ratio found = jackknife(difference(base, other));
  EXPECT_NEAR(found.value, -0.5, 1e-12);
  EXPECT_NEAR(found.margin.value(), 0.0, 1e-12);
}

TEST(EvaluateGroups, FiguresAreThePeers) {
  const testing::Golden golden(small_golden());
  const LoadedModel model = load_model(small_golden() / "hf", std::nullopt, at::kFloat);
  Scratch scratch;
  std::vector<TokenSample> samples;
  for (std::int64_t n = 0; n < golden.num_rows(); ++n) {
    const TokenRows row = golden.row(n);
    samples.push_back({{row.tokens.begin(), row.tokens.end()}, {row.loss_weights.begin(), row.loss_weights.end()}});
  }
  samples[0].loss_weights[3] = 0.25f;
  const auto path = write_tokens(scratch.path() / "tokens.h5", samples);
  const auto file = std::make_shared<const TokenFileReader>(path);
  const Evaluation found = evaluate_groups(model.transformer, file, HarmonyTokens(), 1000, true);

  const at::Tensor expected = golden.log_probs("logits");
  ASSERT_EQ(found.all.loss.size(), samples.size());
  std::int64_t t = 0, learned = 0;
  for (std::size_t s = 0; s < samples.size(); ++s) {
    double loss = 0.0, weight = 0.0, best = 0.0, count = 0.0;
    for (std::size_t i = 0; i < samples[s].tokens.size(); ++i, ++t) {
      if (i == 0) continue;
      const at::Tensor row = expected[t - 1];
      EXPECT_NEAR(found.log_probs[static_cast<std::size_t>(t)], row[samples[s].tokens[i]].item<double>(), 1e-4);
      if (samples[s].loss_weights[i] == 0.0f) continue;
      loss -= samples[s].loss_weights[i] * row[samples[s].tokens[i]].item<double>();
      weight += samples[s].loss_weights[i];
      best += row.argmax().item<std::int64_t>() == samples[s].tokens[i] ? 1.0 : 0.0;
      count += 1.0;
    }
    learned += static_cast<std::int64_t>(count);
    EXPECT_NEAR(found.all.loss[s].numerator, loss, 1e-3);
    EXPECT_DOUBLE_EQ(found.all.loss[s].denominator, weight);
    EXPECT_EQ(found.all.accuracy[s].numerator, best);
    EXPECT_EQ(found.all.accuracy[s].denominator, count);
  }
  EXPECT_EQ(found.all.num_learned, learned);
  EXPECT_TRUE(found.channels.empty());
}

}  // namespace
}  // namespace ossature
