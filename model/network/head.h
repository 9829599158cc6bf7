// The vocabulary head and the loss, only at positions whose next token is learned and a chunk of positions at a time:
// logits of all tokens over a vocabulary of 201,088 are never held. Shapes: T tokens, H hidden, V vocabulary, N learned
// positions.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include <ATen/core/Tensor.h>

#include "model/network/transformer.h"

namespace ossature {

/// The predictions that count in a batch: position rows[n] predicts targets[n] with weight weights[n].
struct Targets {
  at::Tensor rows;     // int64 [N]
  at::Tensor targets;  // int64 [N]
  at::Tensor weights;  // float32 [N], > 0
  double weight_sum = 0.0;
};

/// `loss_weights[t]` is the weight of token t as a target, predicted at t - 1; the first token of a sample never
/// counts.
[[nodiscard]] Targets targets_of(std::span<const std::int32_t> tokens, std::span<const float> loss_weights,
                                 std::span<const std::int64_t> sample_offsets);

/// The most that head_loss holds at once beside hidden, for `count` positions.
[[nodiscard]] std::int64_t head_bytes(const ModelConfig& config, std::int64_t count, bool bfloat16);

struct HeadLoss {
  double loss_sum = 0.0;
  at::Tensor grad_hidden;  // [T, H] gradient of loss_sum wrt the last layer's output, in its dtype
};

/// A loss on the logits at `rows` (int64 [N]) of hidden [T, H] and its gradient, in one pass. `loss`(n, logits) gets
/// the logits [count, V] of rows n, n + 1, ... in the transformer's dtype, replaces them by the gradient wrt them, and
/// returns its sum over them. Gradients of norm and lm_head are accumulated where those require it.
[[nodiscard]] HeadLoss head_loss(const Transformer& transformer, const at::Tensor& hidden, const at::Tensor& rows,
                                 const std::function<double(std::int64_t, const at::Tensor&)>& loss);

/// The same of the sum of weight * -log p(target).
[[nodiscard]] HeadLoss head_loss(const Transformer& transformer, const at::Tensor& hidden, const Targets& targets);

/// log p(target) at each of `targets`, float32 [N], natural logarithm.
[[nodiscard]] at::Tensor head_log_probs(const Transformer& transformer, const at::Tensor& hidden,
                                        const Targets& targets);

/// Logits at all rows of hidden [N, H], float32 [N, V].
[[nodiscard]] at::Tensor head_logits(const Transformer& transformer, const at::Tensor& hidden);

}  // namespace ossature
