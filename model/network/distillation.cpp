#include "model/network/distillation.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace ossature {
namespace {

/// Predictions of which float32 logits of both are held at once.
constexpr std::int64_t kRowsAtOnce = 64;

/// The teacher's log-probabilities at `count` of the targets' rows, [count, V].
at::Tensor log_probs(const Teacher& teacher, const Targets& targets, std::int64_t first, std::int64_t count) {
  const at::Tensor rows = targets.rows.narrow(0, first, count).to(teacher.hidden.device());
  return at::log_softmax(head_logits(teacher.transformer, teacher.hidden.index_select(0, rows)), -1);
}

double weighted_sum(const at::Tensor& divergences, const at::Tensor& weights) {
  return divergences.dot(weights.to(at::kDouble)).item<double>();
}

}  // namespace

at::Tensor kl_divergence(const at::Tensor& log_p, const at::Tensor& log_q) {
  return (log_p.exp() * (log_p - log_q)).sum(-1, false, at::kDouble);
}

HeadLoss distillation_loss(const Transformer& student, const at::Tensor& hidden, const Teacher& teacher,
                           const Targets& targets) {
  return head_loss(student, hidden, targets.rows, [&](std::int64_t begin, const at::Tensor& logits) {
    double sum = 0.0;
    for (std::int64_t first = 0; first < logits.size(0); first += kRowsAtOnce) {
      const auto count = std::min(kRowsAtOnce, logits.size(0) - first);
      at::Tensor part = logits.narrow(0, first, count);
      const at::Tensor log_p = log_probs(teacher, targets, begin + first, count);
      const at::Tensor log_q = at::log_softmax(part.to(at::kFloat), -1);
      const at::Tensor weights = targets.weights.narrow(0, begin + first, count).to(logits.device());
      sum += weighted_sum(kl_divergence(log_p, log_q), weights);
      part.copy_((log_q.exp() - log_p.exp()).mul_(weights.unsqueeze(1)));
    }
    return sum;
  });
}

double distillation_divergence(const Transformer& student, const at::Tensor& hidden, const Teacher& teacher,
                               const Targets& targets) {
  at::NoGradGuard no_grad;
  double sum = 0.0;
  for (std::int64_t first = 0; first < targets.rows.size(0); first += kRowsAtOnce) {
    const auto count = std::min(kRowsAtOnce, targets.rows.size(0) - first);
    const at::Tensor rows = targets.rows.narrow(0, first, count).to(hidden.device());
    const at::Tensor log_q = at::log_softmax(head_logits(student, hidden.index_select(0, rows)), -1);
    sum += weighted_sum(kl_divergence(log_probs(teacher, targets, first, count), log_q),
                        targets.weights.narrow(0, first, count).to(log_q.device()));
  }
  return sum;
}

}  // namespace ossature
