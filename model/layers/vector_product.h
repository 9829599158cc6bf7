// Layers for one or a few tokens at a time, as in decoding: weights are read once, at the speed of memory, and
// multiplied as they are read (vector_kernels.h). Sums are in float32, so results equal the other ways' within the
// rounding of their dtype; they do not depend on the number of threads.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "model/kernels/vector_kernels.h"
#include "model/layers/experts_kernels.h"
#include "model/layers/linear.h"

namespace ossature {

/// Tokens from which on products of matrices are faster.
inline constexpr std::int64_t kFewTokens = 16;

/// Whether x W^T can go this way: fewer than kFewTokens tokens on the CPU, frozen bfloat16 weights whose rows are whole
/// groups, and nothing that a backward pass would need.
[[nodiscard]] bool takes_vectors(const at::Tensor& weight, const at::Tensor& x);
/// The same for linear.h's apply: no dropout either.
[[nodiscard]] bool takes_vectors(const Linear& linear, const at::Tensor& x, DropoutKey key);
/// The same for the layer of experts; packed weights or dense ones.
[[nodiscard]] bool takes_vectors(const ExpertsPass& pass);

/// linear.h's apply for what takes_vectors: x [T, I] -> [T, O] in `dtype`.
[[nodiscard]] at::Tensor vector_apply(const Linear& linear, const at::Tensor& x, at::ScalarType dtype,
                                      std::optional<vectors::Kernel> kernel = std::nullopt);

/// experts_kernels.h's forward pass for what takes_vectors: float32 [T, H].
[[nodiscard]] at::Tensor vector_forward(const ExpertsPass& pass, std::optional<vectors::Kernel> kernel = std::nullopt);

}  // namespace ossature
