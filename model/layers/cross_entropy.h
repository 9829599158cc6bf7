// Softmax cross-entropy over a large vocabulary, loss and gradient in one visit of the logits. Shapes: N rows, V
// vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

namespace ossature {

/// Replaces logits [N, V] (bfloat16 or float32, contiguous) by the gradient of the loss wrt them, rounded to their
/// dtype, and returns the loss: sum over rows of weights[n] * -log softmax(logits[n])[targets[n]]. Computed in float32,
/// rows summed in float64. targets int64 [N], weights float32 [N], on the device of the logits.
[[nodiscard]] double cross_entropy_gradient(const at::Tensor& logits, const at::Tensor& targets,
                                            const at::Tensor& weights);

}  // namespace ossature
