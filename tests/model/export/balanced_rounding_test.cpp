#include "model/export/balanced_rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>

#include "model/layers/linear.h"

namespace ossature {
namespace {

/// merged [O, I] float32, of a base and `pair`, in bfloat16.
at::Tensor balanced_bfloat16(const at::Tensor& merged, const LowRank& pair) {
  const at::Tensor rows = merged.contiguous();
  at::Tensor result = at::zeros(rows.sizes(), at::kBFloat16);
  EXPECT_TRUE(BalancedRounding(pair.a).round(rows.const_data_ptr<float>(), rows.size(0), BalancedRounding::Order::kRows,
                                             static_cast<std::uint16_t*>(result.data_ptr()), rows.size(1)));
  return result;
}

/// A base on bfloat16's grid, [rows, columns], with a pair whose delta has a size of `strength` weights.
struct Case {
  at::Tensor base, merged, delta;
  LowRank pair;

  Case(std::int64_t rows, std::int64_t columns, std::int64_t rank, double strength) {
    at::manual_seed(3);
    base = at::randn({rows, columns}).to(at::kBFloat16).to(at::kFloat);
    pair = {at::randn({rank, columns}), at::randn({rows, rank}), 0.5};
    pair.b *= strength * base.norm() / (pair.scale * at::mm(pair.b, pair.a).norm());
    delta = pair.scale * at::mm(pair.b, pair.a);
    merged = base + delta;
  }
  /// Of what `stored` adds to the base along the delta.
  [[nodiscard]] double gain(const at::Tensor& stored) const {
    const at::Tensor added = stored.to(at::kDouble) - base.to(at::kDouble), wanted = delta.to(at::kDouble);
    return ((added * wanted).sum() / (wanted * wanted).sum()).item<double>();
  }
};

TEST(BalancedRounding, KeepsTheGainOfADeltaBelowHalfAStep) {
  const Case small(192, 256, 8, 0.003);
  EXPECT_LT(small.gain(small.merged.to(at::kBFloat16)), 0.95) << "the dead zone that this is for";
  const at::Tensor stored = balanced_bfloat16(small.merged, small.pair);
  EXPECT_NEAR(small.gain(stored), 1.0, 5e-4);
  // Of each row alone too, along each row of A: what is left of one step, of 256 that nearest adds up.
  const at::Tensor directions = std::get<0>(at::linalg_qr(small.pair.a.t().to(at::kDouble)));
  const at::Tensor left = at::mm(stored.to(at::kDouble) - small.merged.to(at::kDouble), directions);
  const at::Tensor nearest =
      at::mm((small.merged.to(at::kBFloat16).to(at::kDouble) - small.merged.to(at::kDouble)), directions);
  EXPECT_LT(left.norm().item<double>(), 0.1 * nearest.norm().item<double>());
}

TEST(BalancedRounding, EveryValueIsOneOfTheTwoNextToIt) {
  for (const double strength : {1e-4, 0.003, 0.1}) {
    const Case each(37, 70, 5, strength);  // no multiple of what is worked on together
    const at::Tensor stored = balanced_bfloat16(each.merged, each.pair);
    ASSERT_EQ(stored.scalar_type(), at::kBFloat16);
    const at::Tensor error = (stored.to(at::kDouble) - each.merged.to(at::kDouble)).abs();
    // A step of bfloat16, which has 8 digits: 2^-7 of the power of two below.
    const at::Tensor step = at::exp2(at::floor(at::log2(each.merged.abs().to(at::kDouble))) - 7);
    EXPECT_TRUE(error.lt(step).all().item<bool>()) << strength;
  }
}

TEST(BalancedRounding, ValuesOnTheGridStay) {
  Case each(40, 64, 4, 0.01);
  each.pair.b.select(0, 7).zero_();
  const at::Tensor merged = each.base + each.pair.scale * at::mm(each.pair.b, each.pair.a);
  EXPECT_TRUE(at::equal(balanced_bfloat16(each.base, each.pair).to(at::kFloat), each.base));
  EXPECT_TRUE(at::equal(balanced_bfloat16(merged, each.pair)[7].to(at::kFloat), each.base[7]));
}

TEST(BalancedRounding, ARowDependsOnItselfAloneAndNotOnItsPlace) {
  const Case each(50, 48, 6, 0.01);
  const at::Tensor all = balanced_bfloat16(each.merged, each.pair);
  for (const std::int64_t row : {0, 15, 16, 49})
    EXPECT_TRUE(at::equal(balanced_bfloat16(each.merged.narrow(0, row, 1), each.pair)[0], all[row])) << row;
  // The same into a transposed matrix.
  at::Tensor transposed = at::zeros({48, 50}, at::kBFloat16);
  const at::Tensor rows = each.merged.contiguous();
  EXPECT_TRUE(BalancedRounding(each.pair.a)
                  .round(rows.const_data_ptr<float>(), 50, BalancedRounding::Order::kColumns,
                         static_cast<std::uint16_t*>(transposed.data_ptr()), 50));
  EXPECT_TRUE(at::equal(transposed.t(), all));
}

TEST(BalancedRounding, RowsOfAThatDependOnOthersCountOnce) {
  Case each(20, 32, 3, 0.01);
  const at::Tensor once = balanced_bfloat16(each.merged, each.pair);
  LowRank twice = each.pair;
  twice.a = at::cat({each.pair.a, each.pair.a.narrow(0, 1, 1) * 2.0, at::zeros({1, 32})});
  EXPECT_TRUE(at::equal(balanced_bfloat16(each.merged, twice), once));
  // Nothing to look along: to nearest.
  EXPECT_TRUE(at::equal(balanced_bfloat16(each.merged, {at::zeros({2, 32}), {}, 1.0}), each.merged.to(at::kBFloat16)));
}

TEST(BalancedRounding, TellsWhatIsNotFinite) {
  const at::Tensor a = at::randn({2, 4});
  const BalancedRounding rounding(a);
  std::vector<std::uint16_t> out(4);
  const auto is_finite = [&](float value) {
    const std::vector<float> row = {1.0f, value, 2.0f, 3.0f};
    return rounding.round(row.data(), 1, BalancedRounding::Order::kRows, out.data(), 4);
  };
  EXPECT_TRUE(is_finite(0.5f));
  EXPECT_TRUE(is_finite(-0.0f));
  EXPECT_TRUE(is_finite(std::numeric_limits<float>::denorm_min()));
  EXPECT_FALSE(is_finite(std::numeric_limits<float>::infinity()));
  EXPECT_FALSE(is_finite(-std::numeric_limits<float>::infinity()));
  EXPECT_FALSE(is_finite(std::numeric_limits<float>::quiet_NaN()));
}

}  // namespace
}  // namespace ossature
