// The mixture of experts of a layer: each token goes through num_experts_per_tok of the experts, whose weights stay in
// MXFP4 and are decoded one expert at a time into a scratch buffer. Shapes: T tokens, H hidden, I intermediate, E
// experts, K experts a token, r rank.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint.h"
#include "model/layers/linear.h"

namespace ossature {

struct Experts {
  ExpertWeight gate_up;     // [E, 2 I, H], gate and up rows interleaved
  at::Tensor gate_up_bias;  // [E, 2 I]
  LowRank gate_up_low_rank;
  ExpertWeight down;     // [E, H, I]
  at::Tensor down_bias;  // [E, H]
  LowRank down_low_rank;
};

/// Which experts each token takes, and how much of each.
struct Routing {
  at::Tensor indices;  // int64 [T, K]
  at::Tensor weights;  // float32 [T, K], sums to 1 in each row
};

/// The top K of the router's logits [T, E], and a softmax over those alone.
[[nodiscard]] Routing route(const at::Tensor& logits, std::int64_t num_experts_per_tok);

struct ExpertsOptions {
  double swiglu_limit = 7.0;
  DropoutKey dropout;
  /// The result will not be looked at, only its gradient: the down product is left out and the values returned are
  /// zeros. True when a layer runs again inside the backward pass.
  bool only_for_backward = false;
  /// Dense trained weights are seen rounded to the MXFP4 grid; their gradient passes straight through the rounding.
  bool on_grid = false;
};

/// Sum over the experts of each token: weight * (W2 h + b2), h = swiglu(W1 x + b1). x [T, H] -> [T, H] in x's dtype;
/// products in that dtype, sums over experts in float32. Differentiable in x, in the routing weights, in the low-rank
/// pairs, and in weights and biases where those require it.
[[nodiscard]] at::Tensor apply(const Experts& experts, const at::Tensor& x, const Routing& routing,
                               const ExpertsOptions& options);

/// The same written in differentiable operations, one expert at a time: the path of trained weights and of other
/// devices, and the judge of the one above.
[[nodiscard]] at::Tensor apply_composed(const Experts& experts, const at::Tensor& x, const Routing& routing,
                                        const ExpertsOptions& options);

}  // namespace ossature
