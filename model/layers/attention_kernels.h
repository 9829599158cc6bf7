// The three ways to compute model/layers/attention.h, each with its forward and backward. Shapes as there.
#pragma once

#include "model/layers/attention.h"

namespace ossature {

struct AttentionInputs {
  at::Tensor q, k, v;  // q and the gradient of the output contiguous
  at::Tensor sinks;    // [Hq] float32
  const SequenceLayout& layout;
  bool sliding;
  double scale;
};

struct AttentionResult {
  at::Tensor out;  // [T, Hq, D]
  at::Tensor lse;  // [T, Hq] float32: log of the softmax's denominator, the sink counted in
};

struct AttentionGradients {
  at::Tensor q, k, v;
};

/// Our own kernels of small bfloat16 products, for processors that have such instructions: no more memory than the
/// result and packed keys and values, all samples in one call, and the same bits from any number of threads.
[[nodiscard]] AttentionResult tiled_forward(const AttentionInputs& in);
[[nodiscard]] AttentionGradients tiled_backward(const AttentionInputs& in, const AttentionResult& result,
                                                const at::Tensor& grad);
/// Whether they can: bfloat16 on a CPU, the head dimension a multiple of 16.
[[nodiscard]] bool tiled_fits(const at::Tensor& q);

/// LibTorch's flash kernel of the CPU: fast, an exponential that is good to 20 units in the last place, which bfloat16
/// does not see.
[[nodiscard]] AttentionResult flash_forward(const AttentionInputs& in);
[[nodiscard]] AttentionGradients flash_backward(const AttentionInputs& in, const AttentionResult& result,
                                                const at::Tensor& grad);
/// Whether it can: bfloat16 on the CPU.
[[nodiscard]] bool flash_fits(const at::Tensor& q);

/// Plain matrix products and a softmax over a block of queries at a time: exact to the last bits of its dtype, on any
/// device, in memory that grows with the block and not with the square of a sample. The forward pass also takes fewer
/// queries than keys: those of the last tokens.
[[nodiscard]] AttentionResult blockwise_forward(const AttentionInputs& in);
[[nodiscard]] AttentionGradients blockwise_backward(const AttentionInputs& in, const AttentionResult& result,
                                                    const at::Tensor& grad);

}  // namespace ossature
