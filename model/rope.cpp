#include "model/rope.h"

#include <cmath>
#include <numbers>

#include <ATen/ATen.h>

namespace ossature {

std::vector<double> yarn_inverse_frequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto half = config.head_dim / 2;
  const auto correction = [&](double rotations) {
    return static_cast<double>(half) *
           std::log(static_cast<double>(scaling.original_max_position_embeddings) /
                    (rotations * 2 * std::numbers::pi)) /
           std::log(config.rope_theta);
  };
  double low = correction(scaling.beta_fast);
  double high = correction(scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim - 1));
  if (low == high) high += 0.001;  // no division by zero on the ramp

  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (std::int64_t i = 0; i < half; ++i) {
    const double extrapolated =
        std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[static_cast<std::size_t>(i)] = extrapolated / scaling.factor * ramp + extrapolated * (1.0 - ramp);
  }
  return frequencies;
}

double yarn_concentration(const RopeScaling& scaling) {
  return scaling.factor <= 1.0 ? 1.0 : 0.1 * std::log(scaling.factor) + 1.0;
}

RopeTable rope_table(const ModelConfig& config, const at::Tensor& positions) {
  const at::Tensor frequencies =
      at::tensor(yarn_inverse_frequencies(config), at::kDouble).to(at::kFloat).to(positions.device());
  const at::Tensor angles = at::outer(positions.to(at::kFloat), frequencies);
  const double concentration = yarn_concentration(config.rope_scaling);
  return {angles.cos() * concentration, angles.sin() * concentration};
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor cosine = table.cosine.unsqueeze(1), sine = table.sine.unsqueeze(1);
  // Float32 tables promote the products, so each result is rounded once.
  return at::cat({halves[0] * cosine - halves[1] * sine, halves[1] * cosine + halves[0] * sine}, -1)
      .to(x.scalar_type());
}

}  // namespace ossature
