// Rounding to bfloat16 for given inputs, against the objective written a second time in float64.
#include "model/export/neighbour_rounding.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "model/export/expert_rows.h"
#include "model/export/merged_experts.h"
#include "tests/support/correlated_inputs.h"

namespace ossature {
namespace {

constexpr double kKappa = 12.0;

/// A weight on MXFP4's grid, a delta of `ratio` times its norm, inputs with unequal, correlated features and a mean.
struct Problem {
  ExpertWeight base;
  LowRank pair;  // of one expert
  InputMoments inputs;

  Problem(std::int64_t out, std::int64_t in, double ratio, int seed) {
    at::manual_seed(seed);
    base.packed = mxfp4_encode(at::randn({1, out, in}) * 0.1);
    pair = {at::randn({1, 4, in}), at::randn({1, out, 4}), 2.0};
    pair.scale *= ratio * decoded_rows(base, 0, 0, out).norm().item<double>() /
                  (at::mm(pair.b[0], pair.a[0]) * pair.scale).norm().item<double>();
    inputs = testing::correlated_inputs(in);
  }
  [[nodiscard]] LowRank delta() const { return {pair.a[0], pair.b[0], pair.scale}; }
  [[nodiscard]] at::Tensor wanted() const {
    return merged_rows(base, 0, delta(), 0, base.out_features()).to(at::kDouble);
  }
  [[nodiscard]] at::Tensor wanted_delta() const {
    return at::mm(pair.b[0].to(at::kDouble), pair.a[0].to(at::kDouble)) * pair.scale;
  }
  [[nodiscard]] at::Tensor hessian() const {
    const at::Tensor mean = inputs.mean.to(at::kDouble);
    const at::Tensor moment = inputs.covariance.to(at::kDouble) + at::outer(mean, mean);
    return moment + at::eye(moment.size(0), at::kDouble) * (kRoundingDamping * moment.diagonal().mean().item<double>());
  }
  [[nodiscard]] RoundedToNeighbours rounded(const RoundingSettings& settings = {}) const {
    return round_to_neighbours(base, 0, delta(), inputs, settings);
  }
  [[nodiscard]] at::Tensor values(const RoundedToNeighbours& rounded) const {
    return merged_bfloat16(base, pair, 0, "x", rounded.upper.unsqueeze(0)).to(at::kDouble);
  }
};

/// J of each row of q.
at::Tensor cost(const Problem& problem, const at::Tensor& q) {
  const at::Tensor d = problem.wanted_delta(), h = problem.hessian(), dh = at::mm(d, h);
  const at::Tensor v = dh / (d * dh).sum(1, true).sqrt(), e = q - problem.wanted();
  return (at::mm(e, h) * e).sum(1) + (kKappa - 1.0) * (e * v).sum(1).square();
}

/// The values of bfloat16 next to each of `wanted` in float32: that of smaller magnitude, and the other.
std::pair<at::Tensor, at::Tensor> neighbours(const at::Tensor& wanted) {
  at::Tensor lower = wanted.to(at::kFloat).contiguous().clone(), upper = lower.clone();
  for (std::int64_t i = 0; i < lower.numel(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, lower.data_ptr<float>() + i, sizeof bits);
    const std::uint32_t below = bits & 0xffff0000u, above = below == bits ? below : below + 0x10000u;
    std::memcpy(lower.data_ptr<float>() + i, &below, sizeof below);
    std::memcpy(upper.data_ptr<float>() + i, &above, sizeof above);
  }
  return {lower.to(at::kDouble), upper.to(at::kDouble)};
}

at::Tensor nearest(const at::Tensor& wanted) {
  return wanted.to(at::kFloat).to(at::kBFloat16).to(at::kDouble);
}

double gain(const Problem& problem, const at::Tensor& q) {
  const at::Tensor d = problem.wanted_delta(), dh = at::mm(d, problem.hessian());
  return ((q - (problem.wanted() - d)) * dh).sum().item<double>() / (d * dh).sum().item<double>();
}

TEST(NeighbourRounding, EachValueIsOneOfTheTwoNextToTheExactOne) {
  for (const double ratio : {0.003, 0.3}) {
    const Problem problem(200, 96, ratio, 1);  // neither a whole block of rows nor of columns
    const auto [lower, upper] = neighbours(problem.wanted());
    const at::Tensor found = problem.values(problem.rounded());
    EXPECT_TRUE(((found == lower) | (found == upper)).all().item<bool>()) << ratio;
    EXPECT_TRUE((found == lower).any().item<bool>() && (found == upper).any().item<bool>()) << ratio;
  }
}

TEST(NeighbourRounding, NoSingleOtherNeighbourWouldLowerTheCost) {
  const Problem problem(16, 64, 0.004, 2);
  RoundingSettings thorough;
  thorough.max_sweeps = 100;
  thorough.settled = 0.0;
  const at::Tensor q = problem.values(problem.rounded(thorough)), least = cost(problem, q);
  const auto [lower, upper] = neighbours(problem.wanted());
  for (std::int64_t j = 0; j < 64; ++j) {
    at::Tensor other = q.clone();
    other.select(1, j) = lower.select(1, j) + upper.select(1, j) - q.select(1, j);
    EXPECT_TRUE((cost(problem, other) > least * (1.0 - 1e-4)).all().item<bool>()) << j;
  }
}

/// What it is for: nearest values give up part of a small delta, and those balanced without data add more noise to the
/// outputs.
TEST(NeighbourRounding, KeepsTheDeltaWithLessErrorThanWithoutData) {
  for (const double ratio : {0.0005, 0.001, 0.002}) {
    const Problem problem(64, 256, ratio, 3);
    const RoundedToNeighbours rounded = problem.rounded();
    const at::Tensor found = problem.values(rounded), plain = nearest(problem.wanted()),
                     balanced = merged_bfloat16(problem.base, problem.pair, 0, "x").to(at::kDouble);
    const double lost = 1.0 - gain(problem, plain);
    ASSERT_GT(lost, 0.1) << "the case is too easy";
    EXPECT_NEAR(gain(problem, found), 1.0, 0.1 * lost) << ratio;
    EXPECT_NEAR(rounded.gain.realised / rounded.gain.wanted, gain(problem, found), 1e-4) << ratio;
    const double error = cost(problem, found).sum().item<double>();
    EXPECT_LT(error, 0.25 * cost(problem, plain).sum().item<double>()) << ratio;
    EXPECT_LT(error, 0.25 * cost(problem, balanced).sum().item<double>()) << ratio;
  }
}

TEST(NeighbourRounding, RowsWithoutADeltaKeepTheirValues) {
  Problem problem(200, 64, 0.01, 4);
  problem.pair.b[0].narrow(0, 10, 150).zero_();
  const at::Tensor before = decoded_rows(problem.base, 0, 0, 200).to(at::kDouble);
  const at::Tensor found = problem.values(problem.rounded());
  EXPECT_TRUE(at::equal(found.narrow(0, 10, 150), before.narrow(0, 10, 150)));
  EXPECT_FALSE(at::equal(found, before));
}

TEST(NeighbourRounding, ADenseBaseIsRoundedAlike) {
  Problem packed(64, 96, 0.004, 5), dense = packed;
  dense.base = {{}, decoded_rows(packed.base, 0, 0, 64).to(at::kBFloat16).t().contiguous().t().unsqueeze(0)};
  EXPECT_TRUE(at::equal(packed.rounded().upper, dense.rounded().upper));
}

TEST(NeighbourRounding, NoBitDependsOnThreadsOrOnTheLayout) {
  const Problem problem(300, 160, 0.004, 6);
  const RoundedToNeighbours two = problem.rounded();
  const int threads = at::get_num_threads();
  for (const int number : {1, 3}) {
    at::set_num_threads(number);
    const RoundedToNeighbours other = problem.rounded();
    EXPECT_TRUE(at::equal(two.upper, other.upper)) << number;
    EXPECT_EQ(two.gain.realised, other.gain.realised) << number;
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(merged_transposed(problem.base, problem.pair, 0, "x", two.upper.unsqueeze(0)).t(),
                        merged_bfloat16(problem.base, problem.pair, 0, "x", two.upper.unsqueeze(0))));
}

TEST(NeighbourRounding, InputsThatNeverVaryLeaveAPlainRoundingOfTheDelta) {
  Problem problem(64, 128, 0.003, 7);
  problem.inputs.covariance.zero_();
  problem.inputs.mean.zero_();
  const at::Tensor d = problem.wanted_delta(), moved = problem.values(problem.rounded()) - (problem.wanted() - d);
  EXPECT_NEAR(((moved * d).sum() / (d * d).sum()).item<double>(), 1.0, 0.005);
}

TEST(NeighbourRounding, TellsOfValuesThatBfloat16DoesNotHold) {
  const float rows[8] = {1.0f, -1.00390625f, 3.4e38f, 0.0f, -0.0f, 1e-40f, -2.5f, 7.1f};
  std::uint16_t out[8];
  const std::uint8_t none = 0x00, all = 0xff;
  EXPECT_TRUE(take_neighbours(rows, &none, 1, 8, out));
  EXPECT_EQ(out[1], 0xbf80);  // -1
  EXPECT_EQ(out[4], 0x8000);
  EXPECT_FALSE(take_neighbours(rows, &all, 1, 8, out)) << "3.4e38 lies above the largest, and the next is infinite";
  EXPECT_EQ(out[1], 0xbf81);
  EXPECT_EQ(out[0], 0x3f80) << "a value of the grid stays whatever is chosen";
  EXPECT_EQ(out[6], 0xc020);
}

}  // namespace
}  // namespace ossature
