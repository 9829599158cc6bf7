// Causal attention with sinks over a flat token axis: samples lie one after another without padding, and no token sees
// another sample. gpt-oss alternates layers that see the last `sliding_window` tokens with layers that see all.
// Shapes: T tokens, Hq query heads, Hk key and value heads (Hq a multiple of Hk), D head dimension.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ossature {

/// Where the samples of a flat token axis begin. Built once a batch and shared by all layers.
class SequenceLayout {
 public:
  /// `sample_offsets` [S + 1]: first 0, non-decreasing, last T. `window` is the model's sliding_window;
  /// window() is no more than the longest sample.
  SequenceLayout(std::span<const std::int64_t> sample_offsets, std::int64_t window);

  [[nodiscard]] std::int64_t num_tokens() const { return offsets_.back(); }
  [[nodiscard]] const std::vector<std::int64_t>& offsets() const { return offsets_; }
  [[nodiscard]] std::int64_t window() const { return window_; }
  /// int64 [T]: 0 at the first token of each sample.
  [[nodiscard]] const at::Tensor& positions() const { return positions_; }

 private:
  std::vector<std::int64_t> offsets_;
  std::int64_t window_;
  at::Tensor positions_;
};

/// softmax over [q.k * scale of the keys a token may see, sink] without the sink's own column, times v.
/// q [T, Hq, D], k and v [T, Hk, D], all in one dtype (bfloat16 or float32); sinks [Hq] float32, raw logits that
/// `scale` does not touch. Returns [T, Hq, D]. Differentiable in all four;
/// `layout` must live until the backward pass has run.
///
/// In bfloat16 on a CPU this goes by tiles (attention_tiled.cpp), in odd head dimensions through LibTorch's flash
/// kernel; in float32, whose purpose is exactness, and on other devices it is plain products, a block of queries at a
/// time. Memory grows with T, time with T * window in sliding layers.
[[nodiscard]] at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& sinks, const SequenceLayout& layout, bool sliding, double scale);

}  // namespace ossature
