// Attention by plain matrix products and a softmax over a block of queries at a time: exact to the last bits of its
// dtype, on any device, in memory that grows with the block and not with the square of a sample. Shapes as in
// model/attention.h.
#pragma once

#include "model/attention.h"

namespace ossature {

/// As `attention`, by this method.
[[nodiscard]] at::Tensor attention_blockwise(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                             const at::Tensor& sinks, const SequenceLayout& layout, bool sliding,
                                             double scale);

/// Gradient [Hq] of the sinks: a sink's share of the softmax, exp(sink - lse), takes from every output in that
/// proportion. grad and out [T, Hq, D]; lse [T, Hq] float32 with the sink counted in.
[[nodiscard]] at::Tensor sink_gradient(const at::Tensor& grad, const at::Tensor& out, const at::Tensor& lse,
                                       const at::Tensor& sinks);

}  // namespace ossature
