// Attention of a sample's newest tokens while keys and values of its earlier ones are kept. Shapes as in attention.h, N
// new tokens.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace ossature {

/// model/layers/attention.h's for q [N, Hq, D], the queries of the last N of T tokens, and k and v [T, Hk, D].
/// `window` 0: all keys are seen. By its plain products in float32 whatever q's dtype, in which the result [N, Hq, D]
/// is. Not differentiable.
[[nodiscard]] at::Tensor attention_to_past(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           const at::Tensor& sinks, std::int64_t window, double scale);

}  // namespace ossature
