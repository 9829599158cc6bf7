// gpt-oss's expert activation: a SwiGLU whose gate and up values are interleaved, clamped, and with 1 added to up.
//   gate = min(u[0::2], limit)   up = clamp(u[1::2], -limit, limit)   h = gate * sigmoid(1.702 gate) * (up + 1)
// Shapes: N rows, I intermediate features.
#pragma once

#include <ATen/core/Tensor.h>

namespace ossature {

/// Slope of the gate's sigmoid (openai/gpt-oss, gpt_oss/torch/model.py, swiglu).
inline constexpr double kSwigluAlpha = 1.702;

/// u [N, 2 I] bfloat16 or float32, contiguous, CPU -> h [N, I] in the same dtype; computed in float32. Not recorded by
/// autograd.
[[nodiscard]] at::Tensor swiglu_forward(const at::Tensor& u, double limit);

/// Gradient of `swiglu_forward` wrt u, [N, 2 I], from that wrt h, [N, I] of the same dtype. Zero where the clamps hold.
[[nodiscard]] at::Tensor swiglu_backward(const at::Tensor& u, const at::Tensor& grad_h, double limit);

/// Differentiable, on any device.
[[nodiscard]] at::Tensor swiglu(const at::Tensor& u, double limit);

}  // namespace ossature
