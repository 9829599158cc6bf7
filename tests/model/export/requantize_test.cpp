// Rounding that keeps a delta, against the objective written a second time: plain loops in float64, GPTQ by the
// Cholesky factor of the inverse, coordinate descent column by column.
#include "model/export/requantize.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/correlated_inputs.h"

namespace ossature {
namespace {

constexpr double kKappa = 12.0, kDamping = 0.01;
constexpr double kGrid[8] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};

/// A weight on the grid, a delta of `ratio` times its norm and moments of inputs with unequal, correlated features.
struct Problem {
  Mxfp4Tensor base;
  LowRank delta;
  InputMoments inputs;

  Problem(std::int64_t out, std::int64_t in, double ratio, int seed) {
    at::manual_seed(seed);
    base = mxfp4_encode(at::randn({1, out, in}) * 0.1);
    delta = {at::randn({4, in}), at::randn({out, 4}), 2.0};
    const double norm = (at::mm(delta.b, delta.a) * delta.scale).norm().item<double>();
    delta.scale *= ratio * weight().norm().item<double>() / norm;
    inputs = testing::correlated_inputs(in);
  }
  [[nodiscard]] at::Tensor weight() const { return mxfp4_decode_expert(base, 0, at::kFloat).to(at::kDouble); }
  [[nodiscard]] at::Tensor wanted_delta() const {
    return at::mm(delta.b.to(at::kDouble), delta.a.to(at::kDouble)) * delta.scale;
  }
  [[nodiscard]] at::Tensor scales() const {
    return at::exp2(base.scales[0].to(at::kDouble) - 127.0).repeat_interleave(kMxfp4BlockSize, 1);
  }
  [[nodiscard]] at::Tensor hessian() const {
    at::Tensor h = inputs.covariance.to(at::kDouble);
    return h + at::eye(h.size(0), at::kDouble) * (kDamping * h.diagonal().mean().item<double>());
  }
  [[nodiscard]] at::Tensor decoded(const RoundedExpert& rounded) const {
    return mxfp4_decode_expert({rounded.blocks.unsqueeze(0), base.scales}, 0, at::kFloat).to(at::kDouble);
  }
  [[nodiscard]] RoundedExpert rounded() const { return requantize(base, 0, delta, inputs); }
};

/// Nearest by search; ties to the even code.
double nearest(double x) {
  int best = 0;
  for (int code = 1; code < 8; ++code) {
    const double closer = std::fabs(std::fabs(x) - kGrid[code]) - std::fabs(std::fabs(x) - kGrid[best]);
    if (closer < 0.0 || (closer == 0.0 && code % 2 == 0)) best = code;
  }
  return std::copysign(kGrid[best], x);
}

/// The part of J along the delta: v of each row.
at::Tensor direction(const Problem& problem) {
  const at::Tensor d = problem.wanted_delta(), dh = at::mm(d, problem.hessian());
  return dh / (d * dh).sum(1, true).sqrt();
}

/// J of each row of q.
at::Tensor cost(const Problem& problem, const at::Tensor& q) {
  const at::Tensor e = q - problem.weight() - problem.wanted_delta();
  return (at::mm(e, problem.hessian()) * e).sum(1) + (kKappa - 1.0) * (e * direction(problem)).sum(1).square();
}

using Rows = std::vector<std::vector<double>>;
Rows rows_of(const at::Tensor& t) {
  Rows rows;
  for (std::int64_t i = 0; i < t.size(0); ++i) {
    const at::Tensor row = t[i].contiguous();
    rows.emplace_back(row.const_data_ptr<double>(), row.const_data_ptr<double>() + row.numel());
  }
  return rows;
}

/// The least J of each row.
std::vector<double> reference(const Problem& problem) {
  const at::Tensor h = problem.hessian();
  const auto size = static_cast<std::size_t>(h.size(0));
  const at::Tensor order = std::get<1>(at::sort(h.diagonal(), true, 0, true));
  const at::Tensor inverse = at::linalg_inv(h.index_select(0, order).index_select(1, order));
  const Rows upper = rows_of(at::linalg_cholesky(inverse, /*upper=*/true)), hessian = rows_of(h),
             scale = rows_of(problem.scales()), base = rows_of(problem.weight()), d = rows_of(problem.wanted_delta()),
             v = rows_of(direction(problem));
  const auto* column = order.const_data_ptr<std::int64_t>();
  const auto cost_of = [&](std::size_t r, const std::vector<double>& q, std::vector<double>& g, double& a) {
    g.assign(size, 0.0);
    a = 0.0;
    for (std::size_t j = 0; j < size; ++j) {
      const double e = q[j] - base[r][j] - d[r][j];
      a += e * v[r][j];
      for (std::size_t k = 0; k < size; ++k) g[k] += e * hessian[j][k];
    }
    double sum = (kKappa - 1.0) * a * a;
    for (std::size_t j = 0; j < size; ++j) sum += (q[j] - base[r][j] - d[r][j]) * g[j];
    return sum;
  };
  std::vector<double> least;
  for (std::size_t r = 0; r < base.size(); ++r) {
    std::vector<double> best, g;
    double best_cost = INFINITY, a = 0.0;
    for (const double c : {1.0, 1.6, 2.5, 4.0}) {
      std::vector<double> w(size), q(size);
      for (std::size_t j = 0; j < size; ++j) w[j] = base[r][j] + c * d[r][j];
      for (std::size_t j = 0; j < size; ++j) {
        const auto at = static_cast<std::size_t>(column[j]);
        q[at] = nearest(w[at] / scale[r][at]) * scale[r][at];
        const double error = (w[at] - q[at]) / upper[j][j];
        for (std::size_t k = j + 1; k < size; ++k) w[static_cast<std::size_t>(column[k])] -= error * upper[j][k];
      }
      const double found = cost_of(r, q, g, a);
      if (found < best_cost) {
        best_cost = found;
        best = q;
      }
    }
    (void)cost_of(r, best, g, a);
    for (int sweep = 0; sweep < 4; ++sweep) {
      for (std::size_t place = 0; place < size; ++place) {
        const auto j = static_cast<std::size_t>(column[place]);
        const double t =
            best[j] - (g[j] + (kKappa - 1.0) * a * v[r][j]) / (hessian[j][j] + (kKappa - 1.0) * v[r][j] * v[r][j]);
        const double step = nearest(t / scale[r][j]) * scale[r][j] - best[j];
        if (step == 0.0) continue;
        for (std::size_t k = 0; k < size; ++k) g[k] += step * hessian[j][k];
        a += step * v[r][j];
        best[j] += step;
      }
    }
    least.push_back(cost_of(r, best, g, a));
  }
  return least;
}

TEST(Requantize, IsAsGoodAsAPlainReferenceInFloat64) {
  for (const double ratio : {0.003, 0.02, 0.3}) {
    const Problem problem(64, 96, ratio, 1);  // neither a whole block of rows nor of columns
    const at::Tensor found = cost(problem, problem.decoded(problem.rounded()));
    const std::vector<double> expected = reference(problem);
    double sum = 0.0;
    for (const double each : expected) sum += each;
    EXPECT_NEAR(found.sum().item<double>(), sum, 1e-3 * sum) << ratio;
  }
}

TEST(Requantize, NoSingleCodeWouldLowerTheCost) {
  const Problem problem(16, 64, 0.02, 2);
  RoundingSettings thorough;
  thorough.max_sweeps = 100;
  thorough.settled = 0.0;
  const at::Tensor q = problem.decoded(requantize(problem.base, 0, problem.delta, problem.inputs, thorough));
  const at::Tensor least = cost(problem, q), scales = problem.scales();
  for (std::int64_t j = 0; j < 64; ++j) {
    for (const double value : kGrid) {
      for (const double sign : {1.0, -1.0}) {
        at::Tensor other = q.clone();
        other.select(1, j) = scales.select(1, j) * (sign * value);
        EXPECT_TRUE((cost(problem, other) > least * (1.0 - 1e-4)).all().item<bool>()) << j << " " << sign * value;
      }
    }
  }
}

RoundingSettings with_kappa(double kappa) {
  RoundingSettings settings;
  settings.kappa = kappa;
  return settings;
}

/// Nearest codes are the base's where a delta is small; ours realise it along its own direction, the more the higher
/// kappa, and no more than it is.
TEST(Requantize, KeepsADeltaThatNearestCodesLose) {
  const Problem problem(64, 256, 0.008, 3);
  const at::Tensor w0 = problem.weight(), d = problem.wanted_delta();
  ASSERT_LT(d.abs().max().item<double>(), (problem.scales() * 0.25).min().item<double>());
  const Rows wanted_rows = rows_of((w0 + d) / problem.scales()), base_rows = rows_of(w0 / problem.scales());
  for (std::size_t r = 0; r < base_rows.size(); ++r) {
    for (std::size_t j = 0; j < base_rows[r].size(); ++j) {
      ASSERT_EQ(nearest(wanted_rows[r][j]), base_rows[r][j]) << "the case is too easy";
    }
  }
  const at::Tensor dh = at::mm(d, problem.hessian());
  double before = -0.1;
  for (const double kappa : {1.0, 8.0, 64.0}) {
    const RoundedExpert rounded = requantize(problem.base, 0, problem.delta, problem.inputs, with_kappa(kappa));
    const double gain = (((problem.decoded(rounded) - w0) * dh).sum() / (d * dh).sum()).item<double>();
    EXPECT_GT(gain, before + 0.1) << kappa;
    EXPECT_LT(gain, kappa == 1.0 ? 0.2 : 1.02) << kappa;  // least squares alone loses it too
    EXPECT_NEAR(rounded.gain.realised / rounded.gain.wanted, gain, 1e-3) << kappa;
    before = gain;
  }
  EXPECT_GT(before, 0.85);
}

TEST(Requantize, CorrectsTheMeanOfTheOutputs) {
  const Problem problem(40, 64, 0.05, 4);
  const RoundedExpert rounded = problem.rounded();
  const at::Tensor lost = problem.weight() + problem.wanted_delta() - problem.decoded(rounded);
  const at::Tensor expected = at::mv(lost, problem.inputs.mean.to(at::kDouble));
  EXPECT_LT((rounded.bias_correction.to(at::kDouble) - expected).abs().max().item<double>(),
            1e-5 * expected.abs().max().item<double>());
}

TEST(Requantize, RowsWithoutADeltaKeepTheirBytes) {
  Problem problem(200, 64, 0.05, 5);
  // Zeros of either sign: the bytes must stay and not only the values.
  problem.base.blocks.view({200, -1}).narrow(1, 0, 4).fill_(0x80);
  problem.delta.b.narrow(0, 10, 150).zero_();
  const RoundedExpert rounded = problem.rounded();
  EXPECT_TRUE(at::equal(rounded.blocks.narrow(0, 10, 150), problem.base.blocks[0].narrow(0, 10, 150)));
  EXPECT_EQ(rounded.bias_correction.narrow(0, 10, 150).abs().max().item<float>(), 0.0f);
  EXPECT_FALSE(at::equal(rounded.blocks, problem.base.blocks[0]));
}

TEST(Requantize, NoBitDependsOnThreadsOrOnOtherRows) {
  const Problem problem(300, 160, 0.02, 6);
  const RoundedExpert two = problem.rounded();
  const int threads = at::get_num_threads();
  for (const int number : {1, 3}) {
    at::set_num_threads(number);
    const RoundedExpert other = problem.rounded();
    EXPECT_TRUE(at::equal(two.blocks, other.blocks)) << number;
    EXPECT_TRUE(at::equal(two.bias_correction, other.bias_correction)) << number;
    EXPECT_EQ(two.gain.realised, other.gain.realised) << number;
  }
  at::set_num_threads(threads);
}

/// No calibration token reached the expert, or all were the same: weights count alike, and the delta is still kept.
TEST(Requantize, InputsThatNeverVaryLeaveAPlainRoundingOfTheDelta) {
  Problem problem(64, 128, 0.02, 7);
  problem.inputs.covariance.zero_();
  const RoundedExpert rounded = requantize(problem.base, 0, problem.delta, problem.inputs, with_kappa(64.0));
  const at::Tensor d = problem.wanted_delta(), moved = problem.decoded(rounded) - problem.weight();
  EXPECT_NEAR(((moved * d).sum() / (d * d).sum()).item<double>(), 1.0, 0.15);
}

TEST(Requantize, FewInputsGiveASingularMomentAndAResult) {
  Problem problem(32, 128, 0.02, 8);
  const at::Tensor x = at::randn({3, 128});
  problem.inputs.mean = x.mean(0);
  problem.inputs.covariance = at::mm(x.t(), x) / 3.0;
  const RoundedExpert rounded = problem.rounded();
  EXPECT_NEAR(rounded.gain.realised / rounded.gain.wanted, 1.0, 0.1);
}

TEST(Requantize, SmallestAndLargestScales) {
  for (const int exponent : {2, 20, 250}) {
    Problem problem(32, 64, 0.05, 9);
    problem.base.scales.fill_(exponent);
    problem.delta.scale *= std::ldexp(1.0, exponent - 127) / problem.scales().mean().item<double>();
    const at::Tensor before = problem.weight();
    const RoundedExpert rounded = problem.rounded();
    EXPECT_TRUE(problem.decoded(rounded).isfinite().all().item<bool>()) << exponent;
    EXPECT_TRUE(rounded.bias_correction.isfinite().all().item<bool>()) << exponent;
  }
}

}  // namespace
}  // namespace ossature
