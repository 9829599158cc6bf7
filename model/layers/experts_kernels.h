// The two ways to compute the expert layer without autograd's help, forward and backward: tile by tile on packed
// weights (experts_tiled.cpp), and one expert at a time (experts_serial.cpp). Shapes: T tokens, H hidden, I
// intermediate, E experts, N assignments (tokens times experts a token), r rank.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/layers/expert_assignments.h"
#include "model/layers/experts.h"

namespace ossature {

/// What one run through the experts of a layer works on.
struct ExpertsPass {
  const Experts& experts;
  const Assignments& assigned;
  at::Tensor x;                     // [T, H], contiguous
  at::Tensor factors;               // float32 [N], the routing weight of each assignment
  at::Tensor gate_up_a, gate_up_b;  // float32 [E, r, H], [E, 2 I, r], or undefined
  at::Tensor down_a, down_b;        // float32 [E, r, I], [E, H, r], or undefined
  double swiglu_limit;
  DropoutKey dropout;

  [[nodiscard]] std::int64_t hidden() const { return x.size(1); }
  [[nodiscard]] std::int64_t intermediate() const { return experts.down.in_features(); }
};

/// What the backward pass needs of the forward pass.
struct ExpertsKept {
  at::Tensor u;                // [N, 2 I], of the tiled way [N + kSpareRows, 2 I]: W1 x + b1 with its low-rank part
  at::Tensor gate_up_reduced;  // of the tiled way alone: A x, [N, r made even], where there is a pair
  at::Tensor down_reduced;     // A h
};

/// Rows past the end of [N, ...] buffers that the tiled way may read, so that its products have few different shapes.
inline constexpr std::int64_t kSpareRows = 4;

struct ExpertsGradients {
  at::Tensor x;                     // float32 [T, H], or undefined
  at::Tensor factors;               // float32 [N]
  at::Tensor gate_up_a, gate_up_b;  // float32, where there is a pair
  at::Tensor down_a, down_b;
  at::Tensor gate_up_bias, down_bias;  // float32, of those that require one
};

/// Zeros in place of every gradient that is summed up: of x if `needs_x`, of the pairs that there are, and of the
/// biases that require one.
[[nodiscard]] ExpertsGradients zero_gradients(const ExpertsPass& pass, bool needs_x);

/// Masks of one expert's two inputs must differ from each other's and from other experts'. `projection` 0: gate_up, 1:
/// down.
[[nodiscard]] DropoutKey expert_key(DropoutKey key, std::int64_t e, int projection);

/// Expert `e` as [O, I] in `dtype`. `scratch` [O, I] bfloat16, when defined, is used for MXFP4, so the result lasts
/// until its next use.
[[nodiscard]] at::Tensor decoded_expert(const ExpertWeight& weight, std::int64_t e, at::ScalarType dtype,
                                        const at::Tensor& scratch);

/// Whether tiles can do it: packed weights, and x in bfloat16 on a CPU.
[[nodiscard]] bool takes_tiles(const Experts& experts, const at::Tensor& x);

/// Returns float32 [T, H]; zeros if not `needs_output`. Fills `kept` unless it is null.
///
/// The tiled way decodes a tile of a weight into a core's cache and multiplies at once; low-rank pair, bias, activation
/// and routing weight are folded into what is done with the product. A task is one range of output features for all
/// experts, so how tokens are spread over experts does not matter to the threads, and no result depends on their number
/// or timing.
[[nodiscard]] at::Tensor tiled_forward(const ExpertsPass& pass, bool needs_output, ExpertsKept* kept);
[[nodiscard]] at::Tensor serial_forward(const ExpertsPass& pass, bool needs_output, ExpertsKept* kept);

/// `grad` [T, H] in x's dtype, contiguous. Without `needs_x` the gradient wrt x is left out. The tiled way overwrites
/// kept.u, so it works once.
[[nodiscard]] ExpertsGradients tiled_backward(const ExpertsPass& pass, const ExpertsKept& kept, const at::Tensor& grad,
                                              bool needs_x);
[[nodiscard]] ExpertsGradients serial_backward(const ExpertsPass& pass, const ExpertsKept& kept, const at::Tensor& grad,
                                               bool needs_x);

}  // namespace ossature
