// Merged experts in the form in which they are stored: decoded, merged and encoded a few rows at a time on every
// thread, so that no whole expert is in memory in float32. Shapes: O output features, I input features, G = I / 32.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint.h"
#include "model/layers/linear.h"

namespace ossature {

/// Blocks [O, G, 16] of expert `e` of base + scale B A, rounded to nearest at the base's scales (mxfp4_recode). `pair`
/// is of all experts. Throws CheckpointError, which tells `name`, if a merged value is not finite.
[[nodiscard]] at::Tensor merged_blocks(const Mxfp4Tensor& base, const LowRank& pair, std::int64_t e,
                                       const std::string& name);

/// Expert `e` of base + scale B A in bfloat16, [I, O] as transformers' bfloat16 layout has it. `pair` is of all
/// experts, or undefined. Of the two values next to each exact one `upper` [E, O, I / 8] chooses
/// (neighbour_rounding.h), or, if undefined, the adapter alone (balanced_rounding.h). Throws CheckpointError, which
/// tells `name`, if a merged value is not finite in bfloat16.
[[nodiscard]] at::Tensor merged_transposed(const ExpertWeight& base, const LowRank& pair, std::int64_t e,
                                           const std::string& name, const at::Tensor& upper = {});
/// The same values, [O, I] as a GGUF file has them. Each row is a function of the base's row, of A and of its row of B.
[[nodiscard]] at::Tensor merged_bfloat16(const ExpertWeight& base, const LowRank& pair, std::int64_t e,
                                         const std::string& name, const at::Tensor& upper = {});

/// The same expert in float32, [O, I]. Throws as they do.
[[nodiscard]] at::Tensor merged_float(const ExpertWeight& base, const LowRank& pair, std::int64_t e,
                                      const std::string& name);

/// A weight that is no expert's, [O, I], with its pair, in the dtype that is stored: float32, or bfloat16
/// (balanced_rounding.h). An adapter of finite values may still be too large for it: then a CheckpointError tells
/// `name`.
[[nodiscard]] at::Tensor merged_as(const at::Tensor& base, const LowRank& pair, at::ScalarType dtype,
                                   const std::string& name);

}  // namespace ossature
