// The normalization's and the rotation's own kernels against differentiable operations, values and gradients.
#include "model/layers/rms_norm.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/layers/rope.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

constexpr double kEps = 1e-5;

class KernelDtype : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  /// Of one rounding to the dtype.
  [[nodiscard]] static double bound() { return GetParam() == at::kBFloat16 ? 3e-3 : 1e-6; }
};
INSTANTIATE_TEST_SUITE_P(Both, KernelDtype, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(KernelDtype, RmsNormIsItsFormula) {
  at::manual_seed(1);
  at::AutoGradMode mode(true);
  for (const std::int64_t size : {1, 17, 64, 2880}) {
    const at::Tensor x = at::randn({9, size}).mul_(3.0).set_requires_grad(true);
    const at::Tensor weight = at::randn({size}).to(at::kBFloat16);
    const at::Tensor grad = at::randn({9, size}).to(GetParam());
    const at::Tensor out = rms_norm(x, weight, kEps, GetParam());
    EXPECT_EQ(out.scalar_type(), GetParam());
    const at::Tensor wide = x.detach().to(at::kDouble).set_requires_grad(true);
    const at::Tensor expected = wide / (wide.square().mean(-1, true) + kEps).sqrt() * weight.to(at::kDouble);
    EXPECT_LT(testing::relative_error(out.detach(), expected.detach()), bound()) << size;
    const at::Tensor found_grad = torch::autograd::grad({out}, {x}, {grad})[0];
    const at::Tensor expected_grad = torch::autograd::grad({expected}, {wide}, {grad.to(at::kDouble)})[0];
    // Over one value the two terms of the gradient all but cancel.
    EXPECT_LT((found_grad.to(at::kDouble) - expected_grad).norm().item<double>(),
              1e-5 * grad.to(at::kDouble).norm().item<double>())
        << size;
  }
}

TEST_P(KernelDtype, RotationIsOfComplexNumbersAndItsGradientTurnsBack) {
  at::manual_seed(2);
  at::AutoGradMode mode(true);
  const std::int64_t tokens = 7, heads = 3, half = 20;
  const at::Tensor angles = at::randn({tokens, half}).mul_(5.0);
  const RopeTable table{angles.cos() * 1.3, angles.sin() * 1.3};
  const at::Tensor x = at::randn({tokens, heads, 2 * half}).to(GetParam()).set_requires_grad(true);
  const at::Tensor grad = at::randn({tokens, heads, 2 * half}).to(GetParam());
  const auto complex = [&](const at::Tensor& t) {
    const auto parts = t.detach().to(at::kDouble).chunk(2, -1);
    return at::complex(parts[0].contiguous(), parts[1].contiguous());
  };
  const auto error = [&](const at::Tensor& found, const at::Tensor& expected) {
    return ((complex(found) - expected).abs().norm() / expected.abs().norm()).item<double>();
  };
  const at::Tensor factors = at::complex(table.cosine.to(at::kDouble), table.sine.to(at::kDouble)).unsqueeze(1);
  const at::Tensor out = apply_rope(x, table);
  EXPECT_EQ(out.scalar_type(), GetParam());
  EXPECT_LT(error(out, complex(x) * factors), bound());
  EXPECT_LT(error(torch::autograd::grad({out}, {x}, {grad})[0], complex(grad) * factors.conj()), bound());
}

}  // namespace
}  // namespace ossature
