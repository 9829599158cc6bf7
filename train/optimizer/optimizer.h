// AdamW (arXiv 1711.05101) over a ParameterSet's flat buffers, its moments kept in float32, bfloat16 or 8 bits.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "model/network/parameters.h"
#include "train/recipe/recipe.h"

namespace ossature {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;  // 0: no clipping
  OptimizerState state = OptimizerState::kFloat32;
};

/// Bytes that `numel` trained parameters take beside the model they belong to.
struct TrainedBytes {
  std::int64_t values = 0;
  std::int64_t gradients = 0;
  std::int64_t moments = 0;  // both

  [[nodiscard]] std::int64_t total() const { return values + gradients + moments; }
};
[[nodiscard]] TrainedBytes trained_bytes(std::int64_t numel, OptimizerState state);

class AdamW {
 public:
  /// Keeps a reference to `parameters`, which must live longer. Throws RecipeError if they are not on the CPU and the
  /// state is not float32.
  AdamW(ParameterSet& parameters, AdamWOptions options);

  /// Takes the accumulated gradients as sums over `weight_sum`: divides them by it, clips their norm, updates the
  /// parameters and zeroes the gradients. Returns the norm before clipping. Throws NonFiniteError, having changed
  /// nothing, if it is not finite.
  double step(double learning_rate, double weight_sum);

  [[nodiscard]] std::int64_t steps_done() const { return steps_done_; }

  /// The moments as they are stored, laid out as ParameterSet::values(), by the names that a checkpoint has for them:
  /// exp_avg and exp_avg_sq, [numel] float32 or bfloat16; or of 8 bits, [numel] uint8, with exp_avg_absmax and
  /// exp_avg_sq_absmax, [ceil(numel / 256)] float32 (train/optimizer/dynamic_code.h).
  using State = std::map<std::string, at::Tensor>;
  [[nodiscard]] const State& state() const { return state_; }
  /// Goes on from a saved state: copies tensors of the same names, shapes and dtypes.
  void restore(std::int64_t steps_done, const State& state);

 private:
  void update_float32(double learning_rate, double gradient_factor);

  ParameterSet& parameters_;
  AdamWOptions options_;
  State state_;
  std::int64_t steps_done_ = 0;
};

}  // namespace ossature
