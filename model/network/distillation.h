// How far a student's predictions are from a teacher's: KL(teacher || student) over the vocabulary, and its gradient.
// Shapes: T tokens, H hidden, V vocabulary, N predictions.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/network/head.h"
#include "model/network/transformer.h"

namespace ossature {

/// The sum over the vocabulary of p (log p - log q), float64 [N]. log_p and log_q float32 [N, V].
[[nodiscard]] at::Tensor kl_divergence(const at::Tensor& log_p, const at::Tensor& log_q);

/// A teacher where it has read a micro-batch.
struct Teacher {
  const Transformer& transformer;
  at::Tensor hidden;  // [T, H], the last layer's output
};

/// The sum of weight * KL over the predictions of `targets` (whose tokens are not looked at) and its gradient wrt
/// `hidden` [T, H], the student's last output; those of the student's norm and lm_head are accumulated where those
/// require one. The teacher's logits are made a few rows at a time.
[[nodiscard]] HeadLoss distillation_loss(const Transformer& student, const at::Tensor& hidden, const Teacher& teacher,
                                         const Targets& targets);

/// The sum alone.
[[nodiscard]] double distillation_divergence(const Transformer& student, const at::Tensor& hidden,
                                             const Teacher& teacher, const Targets& targets);

}  // namespace ossature
