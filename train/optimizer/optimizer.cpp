#include "train/optimizer/optimizer.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "train/failure/errors.h"
#include "train/optimizer/adamw_kernel.h"
#include "train/optimizer/dynamic_code.h"

namespace ossature {
namespace {

std::int64_t blocks_of(std::int64_t numel) {
  return (numel + dynamic_code::kBlock - 1) / dynamic_code::kBlock;
}

AdamW::State zero_state(const at::Tensor& values, OptimizerState state) {
  const auto zeros = [&](std::int64_t size, at::ScalarType dtype) {
    return at::zeros({size}, values.options().dtype(dtype));
  };
  const std::int64_t numel = values.numel();
  switch (state) {
    case OptimizerState::kFloat32:
      return {{"exp_avg", zeros(numel, at::kFloat)}, {"exp_avg_sq", zeros(numel, at::kFloat)}};
    case OptimizerState::kBFloat16:
      return {{"exp_avg", zeros(numel, at::kBFloat16)}, {"exp_avg_sq", zeros(numel, at::kBFloat16)}};
    case OptimizerState::k8Bit:
      break;
  }
  return {{"exp_avg", zeros(numel, at::kByte)},
          {"exp_avg_absmax", zeros(blocks_of(numel), at::kFloat)},
          {"exp_avg_sq", zeros(numel, at::kByte)},
          {"exp_avg_sq_absmax", zeros(blocks_of(numel), at::kFloat)}};
}

std::uint16_t* bits_of(const at::Tensor& tensor) {
  return reinterpret_cast<std::uint16_t*>(tensor.data_ptr<at::BFloat16>());
}

}  // namespace

TrainedBytes trained_bytes(std::int64_t numel, OptimizerState state) {
  TrainedBytes bytes{4 * numel, 4 * numel, 0};
  switch (state) {
    case OptimizerState::kFloat32:
      bytes.moments = 2 * 4 * numel;
      break;
    case OptimizerState::kBFloat16:
      bytes.moments = 2 * 2 * numel;
      break;
    case OptimizerState::k8Bit:
      bytes.moments = 2 * (numel + 4 * blocks_of(numel));
      break;
  }
  return bytes;
}

AdamW::AdamW(ParameterSet& parameters, AdamWOptions options)
    : parameters_(parameters), options_(options), state_(zero_state(parameters.values(), options.state)) {
  if (!parameters.values().device().is_cpu() && options.state != OptimizerState::kFloat32) {
    throw RecipeError("train.optimizer_state: only float32 is there on a GPU; expected it, or device: cpu");
  }
}

double AdamW::step(double learning_rate, double weight_sum) {
  at::NoGradGuard no_grad;
  const double norm = parameters_.gradient_norm() / weight_sum;
  if (!std::isfinite(norm)) {
    throw NonFiniteError(
        "step " + std::to_string(steps_done_ + 1) +
        ": the gradient norm is not a finite number; nothing was updated. A lower train.learning_rate or "
        "dtype=float32 usually helps; a damaged base model gives this too");
  }
  double factor = 1.0 / weight_sum;
  // As torch.nn.utils.clip_grad_norm_, the 1e-6 included.
  if (options_.max_grad_norm > 0.0) factor *= std::min(1.0, options_.max_grad_norm / (norm + 1e-6));
  ++steps_done_;

  if (options_.state == OptimizerState::kFloat32) {
    update_float32(learning_rate, factor);
    return norm;
  }
  const AdamWStep step{steps_done_,    factor,           learning_rate,        options_.beta1,
                       options_.beta2, options_.epsilon, options_.weight_decay};
  const at::Tensor &first = state_.at("exp_avg"), &second = state_.at("exp_avg_sq");
  const auto update = [&](const auto& moments) {
    adamw_update(step, parameters_.numel(), parameters_.num_decayed(), parameters_.values().data_ptr<float>(),
                 parameters_.gradients().data_ptr<float>(), moments);
  };
  if (options_.state == OptimizerState::kBFloat16) {
    update(BFloat16Moments{bits_of(first), bits_of(second)});
  } else {
    update(DynamicMoments{first.data_ptr<std::uint8_t>(), second.data_ptr<std::uint8_t>(),
                          state_.at("exp_avg_absmax").data_ptr<float>(),
                          state_.at("exp_avg_sq_absmax").data_ptr<float>()});
  }
  return norm;
}

void AdamW::update_float32(double learning_rate, double gradient_factor) {
  at::Tensor gradients = parameters_.gradients();
  gradients.mul_(gradient_factor);
  const at::Tensor step_count = at::full({}, static_cast<double>(steps_done_), gradients.options());
  const auto update = [&](std::int64_t first, std::int64_t count, double weight_decay) {
    if (count == 0) return;
    const auto part = [&](const at::Tensor& all) { return std::vector<at::Tensor>{all.narrow(0, first, count)}; };
    at::_fused_adamw_(part(parameters_.values()), part(gradients), part(state_.at("exp_avg")),
                      part(state_.at("exp_avg_sq")), {}, {step_count}, learning_rate, options_.beta1, options_.beta2,
                      weight_decay, options_.epsilon, false, false);
  };
  update(0, parameters_.num_decayed(), options_.weight_decay);
  update(parameters_.num_decayed(), parameters_.numel() - parameters_.num_decayed(), 0.0);
  gradients.zero_();
}

void AdamW::restore(std::int64_t steps_done, const State& state) {
  steps_done_ = steps_done;
  for (auto& [name, tensor] : state_) tensor.copy_(state.at(name));
}

}  // namespace ossature
