// A weight that may carry a low-rank pair: y = x W^T + b + scale * (dropout(x) A^T) B^T. The pair is applied at the
// product; W + scale * B A is never formed. Shapes: T rows, I input features, O output features, r rank, E experts.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace ossature {

/// The low-rank pair of one weight (LoRA, arXiv 2106.09685). Float32; undefined tensors mean that there is none.
struct LowRank {
  at::Tensor a;  // [r, I], of experts [E, r, I]
  at::Tensor b;  // [O, r], of experts [E, O, r]
  double scale = 1.0;
  double dropout = 0.0;  // probability that an input of A is zeroed in training

  [[nodiscard]] bool defined() const { return a.defined(); }
};

/// Weight and bias as stored (frozen: bfloat16, perhaps mapped) or as trained (float32 leaves). Cast where they are
/// used.
struct Linear {
  at::Tensor weight;  // [O, I]
  at::Tensor bias;    // [O], or undefined
  LowRank low_rank;
};

/// Identifies the dropout masks of one place in one training step; the same key gives the same mask, so recomputing
/// needs no saved state. Zero dropout_seed means no dropout (evaluation).
struct DropoutKey {
  std::uint64_t seed = 0;   // mixed from the run's seed, the step and the micro-batch; 0: evaluation
  std::uint64_t place = 0;  // distinguishes layers and modules
};

/// The mask that a key stands for.
class DropoutMask {
 public:
  /// `p`: probability that a value is zeroed, 0 to below 1.
  DropoutMask(double p, DropoutKey key);
  /// Whether any value is changed: neither `p` nor the key's seed is 0.
  [[nodiscard]] bool active() const { return active_; }
  /// The factor of value `index`: 0 or 1 / (1 - p).
  [[nodiscard]] float factor(std::uint64_t index) const;

 private:
  bool active_;
  float kept_;
  std::uint64_t threshold_, stream_;
};

/// Zeroes each value of x with probability `p` and scales the rest by 1 / (1 - p). The mask is a function of key and of
/// the value's index alone. Differentiable. Returns x itself if p is 0 or the key's seed is.
[[nodiscard]] at::Tensor dropout(const at::Tensor& x, double p, DropoutKey key);

/// x [T, I] -> [T, O] in x's dtype. Differentiable.
[[nodiscard]] at::Tensor apply(const Linear& linear, const at::Tensor& x, DropoutKey key = {});

}  // namespace ossature
