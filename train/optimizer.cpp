#include "train/optimizer.h"

#include <cmath>

#include <ATen/ATen.h>

#include "train/errors.h"

namespace ossature {

AdamW::AdamW(ParameterSet& parameters, AdamWOptions options)
    : parameters_(parameters),
      options_(options),
      exp_avg_(at::zeros_like(parameters.values())),
      exp_avg_sq_(at::zeros_like(parameters.values())) {}

double AdamW::step(double learning_rate, double weight_sum) {
  at::NoGradGuard no_grad;
  const double norm = parameters_.gradient_norm() / weight_sum;
  if (!std::isfinite(norm)) {
    throw NonFiniteError(
        "step " + std::to_string(steps_done_ + 1) +
        ": the gradient norm is not a finite number; nothing was updated. A lower train.learning_rate or "
        "dtype=float32 usually helps; a damaged base model gives this too");
  }
  at::Tensor gradients = parameters_.gradients();
  double factor = 1.0 / weight_sum;
  // As torch.nn.utils.clip_grad_norm_, the 1e-6 included.
  if (options_.max_grad_norm > 0.0) factor *= std::min(1.0, options_.max_grad_norm / (norm + 1e-6));
  gradients.mul_(factor);

  ++steps_done_;
  const at::Tensor step_count = at::full({}, static_cast<double>(steps_done_), gradients.options());
  const auto update = [&](std::int64_t first, std::int64_t count, double weight_decay) {
    if (count == 0) return;
    const auto part = [&](const at::Tensor& all) { return std::vector<at::Tensor>{all.narrow(0, first, count)}; };
    at::_fused_adamw_(part(parameters_.values()), part(gradients), part(exp_avg_), part(exp_avg_sq_), {}, {step_count},
                      learning_rate, options_.beta1, options_.beta2, weight_decay, options_.epsilon, false, false);
  };
  update(0, parameters_.num_decayed(), options_.weight_decay);
  update(parameters_.num_decayed(), parameters_.numel() - parameters_.num_decayed(), 0.0);
  gradients.zero_();
  return norm;
}

void AdamW::restore(std::int64_t steps_done, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq) {
  steps_done_ = steps_done;
  exp_avg_.copy_(exp_avg);
  exp_avg_sq_.copy_(exp_avg_sq);
}

}  // namespace ossature
