// Products with a frozen weight tile by tile, in bfloat16, against LibTorch's in float32, values and every gradient;
// LibTorch's in bfloat16 show how far rounding alone may lead.
#include <gtest/gtest.h>

#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/kernels/bf16_tiles.h"
#include "model/layers/linear_tiled.h"
#include "tests/support/golden.h"
#include "tests/support/instruction_levels.h"

namespace ossature {
namespace {

struct Case {
  std::int64_t tokens, in, out, rank;
  bool bias;
  double dropout = 0.0;
};

constexpr DropoutKey kKey{5, 3};

struct Setting {
  Linear linear;
  at::Tensor x, grad;

  explicit Setting(const Case& c) {
    at::manual_seed(7);
    linear.weight = at::randn({c.out, c.in}).mul_(0.1).to(at::kBFloat16);
    if (c.bias) linear.bias = at::randn({c.out}).to(at::kBFloat16);
    if (c.rank > 0) {
      const auto leaf = [](const at::Tensor& t) {
        return t.mul(0.1).to(at::kBFloat16).to(at::kFloat).set_requires_grad(true);
      };
      linear.low_rank = {leaf(at::randn({c.rank, c.in})), leaf(at::randn({c.out, c.rank})), 1.5, c.dropout};
    }
    x = at::randn({c.tokens, c.in}).to(at::kBFloat16);
    grad = at::randn({c.tokens, c.out}).to(at::kBFloat16);
  }
};

/// Output, then the gradients of x, A and B.
template <typename Apply>
std::vector<at::Tensor> results(const Setting& setting, at::ScalarType dtype, const Apply& apply_linear) {
  Linear linear = setting.linear;
  linear.weight = linear.weight.to(dtype);
  at::AutoGradMode mode(true);
  const at::Tensor x = setting.x.to(dtype).set_requires_grad(true);
  std::vector<at::Tensor> leaves{x};
  if (linear.low_rank.defined()) leaves.insert(leaves.end(), {linear.low_rank.a, linear.low_rank.b});
  std::vector<at::Tensor> all{apply_linear(linear, x)};
  for (const at::Tensor& grad : torch::autograd::grad(all, leaves, {setting.grad.to(dtype)})) all.push_back(grad);
  all[0] = all[0].detach();
  return all;
}

/// By LibTorch's operations alone.
at::Tensor composed(const Linear& linear, const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  const at::Tensor y = at::linear(x, linear.weight, linear.bias.defined() ? linear.bias.to(dtype) : at::Tensor());
  if (!linear.low_rank.defined()) return y;
  const at::Tensor input = dropout(x, linear.low_rank.dropout, kKey);
  const at::Tensor reduced = at::linear(input, linear.low_rank.a.to(dtype));
  return y + linear.low_rank.scale * at::linear(reduced, linear.low_rank.b.to(dtype));
}

at::Tensor by_tiles(const Linear& linear, const at::Tensor& x) {
  return tiled_apply(linear, x, kKey);
}

using LinearTiled = testing::AtEachLevel<Case>;

TEST_P(LinearTiled, IsAsNearToFloat32AsLibTorch) {
  const Setting setting(param());
  ASSERT_TRUE(takes_tiles(setting.linear.weight, setting.x));
  const auto exact = results(setting, at::kFloat, composed);
  const auto rounded = results(setting, at::kBFloat16, composed), tiled = results(setting, at::kBFloat16, by_tiles);
  ASSERT_EQ(exact.size(), tiled.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double bound = testing::relative_error(rounded[i], exact[i]);
    EXPECT_LT(testing::relative_error(tiled[i], exact[i]), 1.2 * bound + 1e-4) << i;
    EXPECT_LT(bound, 0.01) << i;
  }
}

TEST_P(LinearTiled, ThreadsDoNotChangeABit) {
  const Setting setting(param());
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = results(setting, at::kBFloat16, by_tiles);
  at::set_num_threads(3);
  const auto three = results(setting, at::kBFloat16, by_tiles);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], three[i])) << i;
}

// Sizes that fill no tile, panel, block or group of tokens evenly; the last is past what is packed at once.
INSTANTIATE_TEST_SUITE_P(
    Cases, LinearTiled,
    ::testing::Combine(::testing::Values(Case{150, 96, 208, 8, true}, Case{150, 96, 208, 3, false, 0.25},
                                         Case{16, 32, 16, 1, true}, Case{1100, 224, 80, 16, true, 0.5},
                                         Case{530, 160, 336, 0, true}, Case{530, 160, 336, 0, false},
                                         Case{4200, 64, 48, 4, true}),
                       ::testing::ValuesIn(testing::instruction_levels())));

TEST(LinearTiledChoice, IsNotForWhatItCannotDo) {
  const auto bf16 = [](std::int64_t a, std::int64_t b) { return at::zeros({a, b}, at::kBFloat16); };
  EXPECT_TRUE(takes_tiles(bf16(16, 32), bf16(16, 32)));
  EXPECT_FALSE(takes_tiles(bf16(16, 32), bf16(15, 32)));                          // few tokens
  EXPECT_FALSE(takes_tiles(bf16(24, 32), bf16(16, 32)));                          // outputs
  EXPECT_FALSE(takes_tiles(bf16(16, 48), bf16(16, 48)));                          // inputs
  EXPECT_FALSE(takes_tiles(bf16(16, 32), at::zeros({16, 32})));                   // float32
  EXPECT_FALSE(takes_tiles(bf16(32, 16).t(), bf16(16, 32)));                      // not as it lies
  EXPECT_FALSE(takes_tiles(bf16(16, 32).set_requires_grad(true), bf16(16, 32)));  // trained
}

}  // namespace
}  // namespace ossature
