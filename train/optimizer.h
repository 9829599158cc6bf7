// AdamW (arXiv 1711.05101) over a ParameterSet's flat buffers.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/parameters.h"

namespace ossature {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;  // 0: no clipping
};

class AdamW {
 public:
  /// Keeps a reference to `parameters`, which must live longer.
  AdamW(ParameterSet& parameters, AdamWOptions options);

  /// Takes the accumulated gradients as sums over `weight_sum`: divides them by it, clips their norm, updates the
  /// parameters and zeroes the gradients. Returns the norm before clipping. Throws NonFiniteError, having changed no
  /// parameter, if it is not finite.
  double step(double learning_rate, double weight_sum);

  [[nodiscard]] std::int64_t steps_done() const { return steps_done_; }
  /// First and second moments, float32, laid out as ParameterSet::values().
  [[nodiscard]] const at::Tensor& exp_avg() const { return exp_avg_; }
  [[nodiscard]] const at::Tensor& exp_avg_sq() const { return exp_avg_sq_; }
  /// Goes on from a saved state; tensors as above.
  void restore(std::int64_t steps_done, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq);

 private:
  ParameterSet& parameters_;
  AdamWOptions options_;
  at::Tensor exp_avg_;
  at::Tensor exp_avg_sq_;
  std::int64_t steps_done_ = 0;
};

}  // namespace ossature
