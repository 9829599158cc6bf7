// Moments of experts' inputs against float64 sums, token by token.
#include "model/export/input_moments.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/support/golden.h"

namespace ossature {
namespace {

using testing::relative_error;

/// Tokens of four experts: one has 700 (several products), one 5, one 40, one none.
struct Tokens {
  static constexpr std::int64_t kFeatures = 520;  // several tiles, the last ones cut off
  Assignments assigned;
  at::Tensor rows, p;

  explicit Tokens(int seed, std::vector<std::int64_t> offsets = {0, 700, 705, 705, 745}) {
    at::manual_seed(seed);
    assigned.offsets = std::move(offsets);
    const auto number = assigned.offsets.back();
    assigned.order = assigned.tokens = at::arange(number);
    rows = at::randn({number, kFeatures}) * at::rand({kFeatures}) + at::randn({kFeatures});
    p = at::rand({number}) + 0.1;
  }
  [[nodiscard]] at::Tensor rows_of(std::int64_t e) const {
    return rows.narrow(0, assigned.first(e), assigned.count(e)).to(at::kDouble);
  }
  [[nodiscard]] at::Tensor weights_of(std::int64_t e) const {
    return p.narrow(0, assigned.first(e), assigned.count(e)).to(at::kDouble).square();
  }
  [[nodiscard]] at::Tensor mean(std::int64_t e) const {
    return (rows_of(e) * weights_of(e).unsqueeze(1)).sum(0) / weights_of(e).sum();
  }
  [[nodiscard]] at::Tensor covariance(std::int64_t e) const {
    const at::Tensor centred = rows_of(e) - mean(e);
    return at::mm(centred.t(), centred * weights_of(e).unsqueeze(1)) / weights_of(e).sum();
  }
  /// Mean of the experts' covariances, each counting as its tokens' weights.
  [[nodiscard]] at::Tensor pooled() const {
    at::Tensor sum = at::zeros({kFeatures, kFeatures}, at::kDouble);
    for (std::int64_t e = 0; e < 4; ++e) {
      if (assigned.count(e) > 0) sum += covariance(e) * weights_of(e).sum();
    }
    return sum / p.to(at::kDouble).square().sum();
  }
};

class InputMomentsOf : public ::testing::TestWithParam<std::vector<std::int64_t>> {};
INSTANTIATE_TEST_SUITE_P(Tokens, InputMomentsOf,
                         ::testing::Values(std::vector<std::int64_t>{0, 700, 705, 705, 745},
                                           // More than are packed at once: by one expert alone, and by two.
                                           std::vector<std::int64_t>{0, 8300, 8300, 13000, 17000}));

TEST_P(InputMomentsOf, AreWeightedSumsDrawnTowardsThePoolWhereTokensAreFew) {
  const Tokens tokens(0, GetParam());
  MomentSums sums(4, Tokens::kFeatures);
  sums.add(tokens.rows, tokens.p, tokens.assigned);
  for (std::int64_t e = 0; e < 4; ++e) {
    const InputMoments found = sums.moments(e);
    const auto count = static_cast<double>(tokens.assigned.count(e));
    EXPECT_EQ(sums.num_tokens(e), tokens.assigned.count(e));
    const double pooled = kPooledTokens * Tokens::kFeatures;
    at::Tensor expected = tokens.pooled() * (pooled / (count + pooled));
    if (count > 0) {
      expected += tokens.covariance(e) * (count / (count + pooled));
      EXPECT_LT(relative_error(found.mean, tokens.mean(e)), 1e-6) << e;
    } else {
      EXPECT_EQ(found.mean.abs().max().item<float>(), 0.0f);
    }
    EXPECT_LT(relative_error(found.covariance, expected), 1e-5) << e;
    EXPECT_TRUE(at::equal(found.covariance, found.covariance.t())) << e;
  }
}

TEST(InputMoments, OfSeveralBatchesAreThoseOfAll) {
  const Tokens all(1);
  MomentSums together(4, Tokens::kFeatures), apart(4, Tokens::kFeatures);
  together.add(all.rows, all.p, all.assigned);
  for (const auto& [first, second] : {std::pair(0, 300), std::pair(300, 745)}) {
    Assignments part;
    for (const auto offset : all.assigned.offsets) {
      part.offsets.push_back(std::clamp<std::int64_t>(offset, first, second) - first);
    }
    apart.add(all.rows.slice(0, first, second), all.p.slice(0, first, second), part);
  }
  for (std::int64_t e = 0; e < 4; ++e) {
    EXPECT_EQ(together.num_tokens(e), apart.num_tokens(e));
    EXPECT_LT(relative_error(apart.moments(e).covariance, together.moments(e).covariance), 1e-5) << e;
  }
}

TEST(InputMoments, NoBitDependsOnThreads) {
  const Tokens tokens(2);
  const int threads = at::get_num_threads();
  std::vector<InputMoments> found;
  for (const int number : {1, 2, 3}) {
    at::set_num_threads(number);
    MomentSums sums(4, Tokens::kFeatures);
    sums.add(tokens.rows.to(at::kBFloat16), tokens.p, tokens.assigned);
    found.push_back(sums.moments(0));
  }
  at::set_num_threads(threads);
  for (const InputMoments& each : found) {
    EXPECT_TRUE(at::equal(each.covariance, found[0].covariance));
    EXPECT_TRUE(at::equal(each.mean, found[0].mean));
  }
}

TEST(InputMoments, OfNoTokensAtAllAreZero) {
  MomentSums sums(2, 32);
  EXPECT_EQ(sums.moments(1).covariance.abs().max().item<float>(), 0.0f);
}

}  // namespace
}  // namespace ossature
