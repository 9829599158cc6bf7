// Rotary position embedding with YaRN scaling (arXiv 2309.00071), as gpt-oss uses it: on every layer, at every
// position, the concentration multiplying both cosine and sine.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/config.h"

namespace ossature {

/// Inverse frequencies [head_dim / 2] after YaRN's blend of interpolation and extrapolation. The bounds of the blend
/// are floored and ceiled only if the configuration says `truncate`.
[[nodiscard]] std::vector<double> yarn_inverse_frequencies(const ModelConfig& config);

/// 0.1 ln(factor) + 1: multiplies cosine and sine, so that q.k grows with its square.
[[nodiscard]] double yarn_concentration(const RopeScaling& scaling);

/// Cosine and sine of each position, [T, head_dim / 2] float32.
struct RopeTable {
  at::Tensor cosine;
  at::Tensor sine;
};
/// `positions` int64 [T].
[[nodiscard]] RopeTable rope_table(const ModelConfig& config, const at::Tensor& positions);

/// Rotates x [T, heads, head_dim] in float32: the first half of a head pairs with the second. The result in x's dtype.
/// Differentiable.
[[nodiscard]] at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table);

}  // namespace ossature
