// Attention by tiles in bfloat16 against plain products in float32, values and gradients; LibTorch's flash kernel in
// bfloat16, against the same judge, shows how far rounding alone may lead.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/kernels/bf16_tiles.h"
#include "model/layers/attention_kernels.h"
#include "tests/support/golden.h"
#include "tests/support/instruction_levels.h"

namespace ossature {
namespace {

struct Case {
  std::vector<std::int64_t> offsets;
  std::int64_t window;
  bool sliding;
  std::int64_t query_heads, key_heads, head_dim;
  double logits = 1.0;  // their standard deviation
};

struct Setting {
  SequenceLayout layout;
  at::Tensor q, k, v, sinks, grad;
  bool sliding;
  double scale;

  explicit Setting(const Case& c)
      : layout(c.offsets, c.window), sliding(c.sliding), scale(1.0 / std::sqrt(static_cast<double>(c.head_dim))) {
    at::manual_seed(17);
    const auto num_tokens = c.offsets.back();
    const auto make = [&](std::int64_t heads, double size) {
      return at::randn({num_tokens, heads, c.head_dim}).mul_(size).to(at::kBFloat16);
    };
    q = make(c.query_heads, c.logits);
    // Views of a wider tensor, as a fused projection leaves them.
    const at::Tensor both = make(2 * c.key_heads, 1.0);
    k = both.narrow(1, 0, c.key_heads);
    v = both.narrow(1, c.key_heads, c.key_heads);
    sinks = at::randn({c.query_heads}).mul_(c.logits);
    grad = make(c.query_heads, 1.0);
  }

  [[nodiscard]] AttentionInputs inputs(at::ScalarType dtype) const {
    return {q.to(dtype), k.to(dtype), v.to(dtype), sinks, layout, sliding, scale};
  }
};

using Forward = AttentionResult (*)(const AttentionInputs&);
using Backward = AttentionGradients (*)(const AttentionInputs&, const AttentionResult&, const at::Tensor&);

/// Values and gradients under a name each.
std::vector<std::pair<const char*, at::Tensor>> results(const Setting& setting, at::ScalarType dtype, Forward forward,
                                                        Backward backward) {
  const AttentionInputs in = setting.inputs(dtype);
  const AttentionResult result = forward(in);
  const AttentionGradients found = backward(in, result, setting.grad.to(dtype));
  return {{"out", result.out}, {"lse", result.lse}, {"q", found.q}, {"k", found.k}, {"v", found.v}};
}

using AttentionTiled = testing::AtEachLevel<Case>;

TEST_P(AttentionTiled, IsAsExactAsTheFlashKernel) {
  const Setting setting(param());
  const auto exact = results(setting, at::kFloat, blockwise_forward, blockwise_backward);
  const auto flash = results(setting, at::kBFloat16, flash_forward, flash_backward);
  const auto tiled = results(setting, at::kBFloat16, tiled_forward, tiled_backward);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double bound = testing::relative_error(flash[i].second, exact[i].second);
    const double error = testing::relative_error(tiled[i].second, exact[i].second);
    RecordProperty(exact[i].first, std::to_string(error) + " " + std::to_string(bound));
    EXPECT_LT(error, 1.1 * bound + 2e-4) << exact[i].first;
    EXPECT_LT(error, 0.01) << exact[i].first;
  }
}

TEST_P(AttentionTiled, ThreadsDoNotChangeABit) {
  const Setting setting(param());
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = results(setting, at::kBFloat16, tiled_forward, tiled_backward);
  at::set_num_threads(3);
  const auto three = results(setting, at::kBFloat16, tiled_forward, tiled_backward);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i].second, three[i].second)) << one[i].first;
}

/// Samples of 0 to `longest` tokens, short ones more often.
std::vector<std::int64_t> random_offsets(std::uint32_t seed, std::int64_t samples, std::int64_t longest) {
  std::mt19937 random(seed);
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t s = 0; s < samples; ++s) {
    const double part = static_cast<double>(random() % 1000) / 1000.0;
    offsets.push_back(offsets.back() + static_cast<std::int64_t>(part * part * static_cast<double>(longest + 1)));
  }
  return offsets;
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, AttentionTiled,
    ::testing::Combine(::testing::Values(Case{{0, 700}, 128, false, 64, 8, 64}, Case{{0, 700}, 128, true, 64, 8, 64},
                                         Case{{0, 1}, 128, false, 16, 2, 64},                 // one token
                                         Case{{0, 1, 2, 3, 300, 301}, 128, true, 16, 2, 64},  // and among others
                                         Case{{0, 128, 256, 640}, 128, true, 16, 2, 64},      // whole blocks
                                         Case{{0, 129, 256, 641}, 128, true, 16, 2, 64},      // one more, one less
                                         Case{{0, 400}, 1, true, 16, 2, 64},           // a token sees itself alone
                                         Case{{0, 400}, 31, true, 16, 2, 64},          // within a unit of keys
                                         Case{{0, 400}, 33, true, 16, 2, 64},          //
                                         Case{{0, 400, 800}, 200, true, 16, 2, 64},    // wider than a block
                                         Case{{0, 50, 50, 90}, 128, false, 4, 4, 32},  // no groups; an empty sample
                                         Case{{0, 300}, 64, true, 6, 2, 128},          // three heads a group
                                         Case{{0, 300}, 64, false, 5, 1, 48},          // five
                                         Case{{0, 40}, 16, true, 300, 1, 16},          // more heads than a chunk's rows
                                         Case{{0, 300}, 128, false, 16, 2, 64, 30.0},  // nearly one-hot
                                         Case{random_offsets(1, 20, 200), 64, true, 16, 2, 64},   //
                                         Case{random_offsets(2, 20, 200), 64, false, 16, 2, 64},  //
                                         Case{random_offsets(3, 6, 600), 128, true, 8, 1, 32},    //
                                         Case{random_offsets(4, 6, 600), 128, false, 8, 1, 32}),
                       ::testing::ValuesIn(testing::instruction_levels())));

TEST(AttentionTiledExtremes, StayFinite) {
  for (const double size : {1e2, 1e4, 1e8}) {
    for (const double sink : {-1e4, -100.0, 0.0, 100.0, 1e4}) {
      Setting setting({{0, 200}, 64, true, 8, 1, 64, size});
      setting.sinks.fill_(sink);
      for (const auto& [name, tensor] : results(setting, at::kBFloat16, tiled_forward, tiled_backward)) {
        EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << name << " logits " << size << " sink " << sink;
      }
    }
  }
}

TEST(AttentionTiledExtremes, NoNumberIsNotHidden) {
  Setting setting({{0, 200}, 64, false, 8, 1, 64});
  setting.q[150][3][5] = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor out = tiled_forward(setting.inputs(at::kBFloat16)).out;
  EXPECT_TRUE(out[150][3].isnan().all().item<bool>());
  EXPECT_FALSE(out[150][2].isnan().any().item<bool>());
  EXPECT_FALSE(out[149].isnan().any().item<bool>());
}

}  // namespace
}  // namespace ossature
