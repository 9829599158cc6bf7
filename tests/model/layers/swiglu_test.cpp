// The expert activation against its definition in float64.
#include "model/layers/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include <ATen/ATen.h>

namespace ossature {
namespace {

constexpr double kLimit = 7.0;

struct Definition {
  double h, dgate, dup;  // value, and the derivatives by gate and by up
  double scale;          // |gate * sigmoid| * (|up| + 1): what the errors of a float32 computation are relative to
};

Definition definition(double gate, double up) {
  const double g = std::min(gate, kLimit), l = std::clamp(up, -kLimit, kLimit);
  const double sigmoid = 1.0 / (1.0 + std::exp(-kSwigluAlpha * g));
  return {g * sigmoid * (l + 1.0),
          gate > kLimit ? 0.0 : (l + 1.0) * sigmoid * (1.0 + kSwigluAlpha * g * (1.0 - sigmoid)),
          std::abs(up) > kLimit ? 0.0 : g * sigmoid, std::abs(g * sigmoid) * (std::abs(l) + 1.0)};
}

/// Rows of (gate, up) pairs: a grid over and past the clamps, with the clamps themselves.
at::Tensor pairs() {
  const at::Tensor line = at::cat({at::linspace(-30.0, 12.0, 1201), at::tensor({7.0f, -7.0f, 0.0f, -0.0f, -90.0f})});
  const auto grid = at::meshgrid({line, at::cat({at::linspace(-9.0, 9.0, 181), at::tensor({7.0f, -7.0f})})}, "ij");
  return at::stack({grid[0].flatten(), grid[1].flatten()}, -1).view({-1, 2 * 183}).contiguous();
}

TEST(Swiglu, EqualsItsDefinitionToFloat) {
  const at::Tensor u = pairs();
  const at::Tensor h = swiglu_forward(u, kLimit);
  const float* in = u.const_data_ptr<float>();
  const float* out = h.const_data_ptr<float>();
  for (std::int64_t i = 0; i < h.numel(); ++i) {
    const Definition expected = definition(in[2 * i], in[2 * i + 1]);
    // 1.702 g is rounded before the exponential: at g = -30 that alone is 51 * 2^-24 = 3e-6. The exponential saturates
    // at e^87, which leaves 1e-35 of a gate that is even lower.
    ASSERT_NEAR(out[i], expected.h, 4e-6 * expected.scale + 1e-34) << in[2 * i] << " " << in[2 * i + 1];
  }
}

TEST(Swiglu, GradientEqualsItsDefinition) {
  const at::Tensor u = pairs();
  const at::Tensor du = swiglu_backward(u, at::ones({u.size(0), u.size(1) / 2}), kLimit);
  const float* in = u.const_data_ptr<float>();
  const float* out = du.const_data_ptr<float>();
  for (std::int64_t i = 0; i < u.numel() / 2; ++i) {
    const Definition expected = definition(in[2 * i], in[2 * i + 1]);
    ASSERT_NEAR(out[2 * i], expected.dgate, 2e-5) << in[2 * i] << " " << in[2 * i + 1];
    ASSERT_NEAR(out[2 * i + 1], expected.dup, 1e-5) << in[2 * i] << " " << in[2 * i + 1];
  }
}

TEST(Swiglu, BFloat16RoundsTheFloatResultOnce) {
  const at::Tensor u = pairs().to(at::kBFloat16);
  EXPECT_TRUE(at::equal(swiglu_forward(u, kLimit), swiglu_forward(u.to(at::kFloat), kLimit).to(at::kBFloat16)));
}

TEST(Swiglu, NotANumberStaysOne) {
  const at::Tensor u = at::tensor({std::numeric_limits<float>::quiet_NaN(), 1.0f, 1.0f, 1.0f}).view({1, 4});
  const at::Tensor h = swiglu_forward(u, kLimit);
  EXPECT_TRUE(std::isnan(h[0][0].item<float>()));
  EXPECT_FALSE(std::isnan(h[0][1].item<float>()));
}

}  // namespace
}  // namespace ossature
