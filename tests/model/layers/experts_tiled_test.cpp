// The expert layer tile by tile, in bfloat16, against the serial way in float32, values and every gradient; the serial
// way in bfloat16 shows how far rounding alone may lead.
#include <gtest/gtest.h>

#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/kernels/bf16_tiles.h"
#include "model/layers/experts_kernels.h"
#include "tests/support/golden.h"
#include "tests/support/instruction_levels.h"

namespace ossature {
namespace {

/// Sizes that fill no tile, panel or block evenly.
constexpr std::int64_t kExperts = 5, kHidden = 96, kIntermediate = 160;

struct Case {
  std::int64_t tokens, per_token, rank;
  bool gate_up_pair, down_pair;
  double dropout = 0.0;
  bool one_expert = false;  // all tokens take the same
};

struct Setting {
  at::NoGradGuard no_grad;  // biases require a gradient, which the kernels make themselves
  Experts experts;
  Assignments assigned;
  at::Tensor x, factors, grad;

  explicit Setting(const Case& c) {
    at::manual_seed(11);
    experts.gate_up.packed = mxfp4_encode(at::randn({kExperts, 2 * kIntermediate, kHidden}).mul_(0.1));
    experts.down.packed = mxfp4_encode(at::randn({kExperts, kHidden, kIntermediate}).mul_(0.1));
    experts.gate_up_bias = at::randn({kExperts, 2 * kIntermediate}).to(at::kBFloat16);
    experts.down_bias = at::randn({kExperts, kHidden}).to(at::kBFloat16);
    experts.gate_up_bias.set_requires_grad(true);
    experts.down_bias.set_requires_grad(true);
    const auto pair = [&](std::int64_t out, std::int64_t in) {
      return LowRank{at::randn({kExperts, c.rank, in}).mul_(0.1).to(at::kBFloat16).to(at::kFloat),
                     at::randn({kExperts, out, c.rank}).mul_(0.1).to(at::kBFloat16).to(at::kFloat), 2.0, c.dropout};
    };
    if (c.gate_up_pair) experts.gate_up_low_rank = pair(2 * kIntermediate, kHidden);
    if (c.down_pair) experts.down_low_rank = pair(kHidden, kIntermediate);
    x = at::randn({c.tokens, kHidden}).to(at::kBFloat16);
    grad = at::randn({c.tokens, kHidden}).to(at::kBFloat16);
    at::Tensor logits = at::randn({c.tokens, kExperts});
    logits.select(1, 3).fill_(-100.0);  // an expert that no token takes
    if (c.one_expert) logits.select(1, 2).fill_(100.0);
    const Routing routing = route(logits, c.per_token);
    assigned = assign(routing.indices, kExperts);
    factors = routing.weights.reshape(-1).index_select(0, assigned.order);
  }

  [[nodiscard]] ExpertsPass pass(at::ScalarType dtype) const {
    return {experts,
            assigned,
            x.to(dtype),
            factors,
            experts.gate_up_low_rank.a,
            experts.gate_up_low_rank.b,
            experts.down_low_rank.a,
            experts.down_low_rank.b,
            7.0,
            {5, 3}};
  }
};

/// Values and gradients under a name each.
std::vector<std::pair<const char*, at::Tensor>> results(const Setting& setting, at::ScalarType dtype, bool tiled) {
  const ExpertsPass pass = setting.pass(dtype);
  ExpertsKept kept;
  const at::Tensor out = (tiled ? tiled_forward : serial_forward)(pass, true, &kept);
  const auto found = (tiled ? tiled_backward : serial_backward)(pass, kept, setting.grad.to(dtype), true);
  std::vector<std::pair<const char*, at::Tensor>> all{{"out", out}, {"x", found.x}, {"factors", found.factors}};
  for (const auto& [name, tensor] :
       {std::pair{"gate_up_a", found.gate_up_a}, std::pair{"gate_up_b", found.gate_up_b},
        std::pair{"down_a", found.down_a}, std::pair{"down_b", found.down_b},
        std::pair{"gate_up_bias", found.gate_up_bias}, std::pair{"down_bias", found.down_bias}}) {
    if (tensor.defined()) all.emplace_back(name, tensor);
  }
  return all;
}

using ExpertsTiled = testing::AtEachLevel<Case>;

TEST_P(ExpertsTiled, IsAsNearToFloat32AsTheSerialWay) {
  const Setting setting(param());
  const auto exact = results(setting, at::kFloat, false);
  const auto serial = results(setting, at::kBFloat16, false), tiled = results(setting, at::kBFloat16, true);
  ASSERT_EQ(exact.size(), tiled.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double bound = testing::relative_error(serial[i].second, exact[i].second);
    const double scatter = exact[i].second.numel() < 16 ? 4e-3 : 1e-3;  // of a mean over few roundings
    EXPECT_LT(testing::relative_error(tiled[i].second, exact[i].second), 1.3 * bound + scatter) << exact[i].first;
    EXPECT_LT(bound, 0.03) << exact[i].first;
  }
}

TEST_P(ExpertsTiled, ThreadsDoNotChangeABit) {
  const Setting setting(param());
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = results(setting, at::kBFloat16, true);
  at::set_num_threads(3);
  const auto three = results(setting, at::kBFloat16, true);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i].second, three[i].second)) << one[i].first;
}

TEST_P(ExpertsTiled, WhatIsLeftOutIsNotNeeded) {
  const Setting setting(param());
  const ExpertsPass pass = setting.pass(at::kBFloat16);
  ExpertsKept whole, part;
  const at::Tensor out = tiled_forward(pass, true, &whole);
  EXPECT_TRUE(at::equal(tiled_forward(pass, true, nullptr), out));
  EXPECT_EQ(tiled_forward(pass, false, &part).count_nonzero().item<std::int64_t>(), 0);
  const auto expected = tiled_backward(pass, whole, setting.grad, true);
  const auto found = tiled_backward(pass, part, setting.grad, false);
  EXPECT_FALSE(found.x.defined());
  EXPECT_TRUE(at::equal(found.factors, expected.factors));
  ASSERT_EQ(found.gate_up_a.defined(), param().gate_up_pair);
  ASSERT_EQ(found.down_b.defined(), param().down_pair);
  if (param().gate_up_pair) {
    EXPECT_TRUE(at::equal(found.gate_up_a, expected.gate_up_a));
  }
  if (param().down_pair) {
    EXPECT_TRUE(at::equal(found.down_b, expected.down_b));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, ExpertsTiled,
    ::testing::Combine(::testing::Values(Case{150, 2, 8, true, true}, Case{150, 2, 3, true, true, 0.25},
                                         Case{150, 2, 4, true, false}, Case{150, 2, 4, false, true},
                                         Case{150, 2, 1, false, false}, Case{1, 4, 8, true, true},
                                         Case{33, 1, 5, true, true, 0.5, true},
                                         Case{400, 1, 16, true, true, 0.0, true}),
                       ::testing::ValuesIn(testing::instruction_levels())));

TEST(Bf16Tiles, PackedOrdersAreWhatTheProductReads) {
  at::manual_seed(3);
  for (const std::int64_t k : {2, 34, 96}) {
    for (const std::int64_t n : {1, 16, 17, 32}) {
      const at::Tensor a = at::randn({5, k}).to(at::kBFloat16), b = at::randn({n, k}).to(at::kBFloat16);
      const at::Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble).t());
      const auto width = n > 16 ? 32 : 16;
      std::vector<const c10::BFloat16*> rows;
      for (std::int64_t i = 0; i < n; ++i) rows.push_back(b.const_data_ptr<c10::BFloat16>() + i * k);
      at::Tensor packed = at::empty({k, width}, at::kBFloat16), c = at::empty({5, width});
      tiles::pack_tokens(rows.data(), n, k, width, packed.data_ptr<c10::BFloat16>());
      tiles::multiply(5, width, k, a.const_data_ptr<c10::BFloat16>(), k, packed.const_data_ptr<c10::BFloat16>(),
                      c.data_ptr<float>(), width, false);
      EXPECT_LT(testing::relative_error(c.narrow(1, 0, n), expected), 1e-5) << k << " " << n;
      EXPECT_EQ(c.narrow(1, n, width - n).count_nonzero().item<std::int64_t>(), 0);

      const at::Tensor natural = b.t().contiguous();  // [k, n]
      at::Tensor pairs = at::empty({k + 2, n}, at::kBFloat16), d = at::empty({5, n});
      tiles::pack_row_pairs(natural.const_data_ptr<c10::BFloat16>(), n, k, k + 2, n, pairs.data_ptr<c10::BFloat16>());
      tiles::multiply(5, n, k, a.const_data_ptr<c10::BFloat16>(), k, pairs.const_data_ptr<c10::BFloat16>(),
                      d.data_ptr<float>(), n, false);
      EXPECT_LT(testing::relative_error(d, expected), 1e-5) << k << " " << n;
      EXPECT_EQ(pairs.narrow(0, k, 2).count_nonzero().item<std::int64_t>(), 0);
    }
  }
  tiles::release();
}

TEST(Mxfp4Decode, PairsOfRowsAreTheRows) {
  at::manual_seed(4);
  const Mxfp4Tensor weight{at::randint(0, 256, {1, 8, 5, kMxfp4BlockBytes}, at::kByte),
                           at::randint(0, kMxfp4MaxScale + 1, {1, 8, 5}, at::kByte)};
  at::Tensor scales = weight.scales;
  scales.view({-1}).narrow(0, 0, 12).copy_(at::arange(12).remainder(4));  // subnormal values too
  const at::Tensor rows = mxfp4_decode_expert(weight, 0, at::kBFloat16);
  at::Tensor pairs = at::empty({2, 3 * kMxfp4BlockSize, 2}, at::kBFloat16);
  mxfp4_decode_row_pairs(weight.blocks.const_data_ptr<std::uint8_t>(), scales.const_data_ptr<std::uint8_t>(), 2, 4, 5,
                         1, 3, reinterpret_cast<std::uint16_t*>(pairs.data_ptr<c10::BFloat16>()));
  const at::Tensor expected = rows.narrow(0, 2, 4).narrow(1, 32, 96).view({2, 2, 96}).transpose(1, 2);
  EXPECT_TRUE(at::equal(pairs.view(at::kShort), expected.contiguous().view(at::kShort)));
}

}  // namespace
}  // namespace ossature
