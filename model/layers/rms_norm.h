// Root mean square normalization (arXiv 1910.07467).
#pragma once

#include <ATen/core/Tensor.h>

namespace ossature {

/// x * rsqrt(mean(x^2) + eps) * weight over the last dimension: x [T, H] float32, weight [H]; computed in float32, the
/// result in `dtype`. Differentiable in x and, where it requires it, in weight.
[[nodiscard]] at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype);

}  // namespace ossature
