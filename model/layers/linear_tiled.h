// Products with a frozen bfloat16 weight where it lies, tile by tile (bf16_tiles.h): a tile of the weight stays in a
// core's cache while all tokens pass. Shapes: T tokens, I input features, O output features, r rank.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/layers/linear.h"

namespace ossature {

/// Whether tiles can do it: on a CPU both in bfloat16, `weight` [O, I] contiguous and not trained, O a
/// multiple of 16 and I of 32. For fewer than a tile's half of tokens LibTorch's own products are faster, so no.
[[nodiscard]] bool takes_tiles(const at::Tensor& weight, const at::Tensor& x);

/// out [T, O] = x [T, I] W^T. All bfloat16 and contiguous.
void tiled_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& out);

/// out [T, I] = grad [T, O] W. All bfloat16 and contiguous.
void tiled_gradient(const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& out);

/// apply() of model/layers/linear.h by tiles, where takes_tiles(). Differentiable in x and in the low-rank pair, whose
/// terms are added to the float32 sums before they are rounded.
[[nodiscard]] at::Tensor tiled_apply(const Linear& linear, const at::Tensor& x, DropoutKey key);

}  // namespace ossature
