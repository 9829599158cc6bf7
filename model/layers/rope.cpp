#include "model/layers/rope.h"

#include <cmath>
#include <numbers>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/kernels/vector_library.h"
#include "model/kernels/vector_math.h"

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
  settle_vector_library();
  const at::Tensor frequencies =
      at::tensor(yarn_inverse_frequencies(config), at::kDouble).to(at::kFloat).to(positions.device());
  const at::Tensor angles = at::outer(positions.to(at::kFloat), frequencies);
  const double concentration = yarn_concentration(config.rope_scaling);
  return {angles.cos() * concentration, angles.sin() * concentration};
}

namespace {

using namespace vector_math;

/// A head's two halves as a vector of complex numbers, turned by the position's angles, or back for sign -1.
struct Turn {
  template <typename T>
  OSSATURE_INLINE static void run(const T* in, const float* cosine, const float* sine, float sign, std::int64_t half,
                                  T* out) {
#pragma omp simd
    for (std::int64_t j = 0; j < half; ++j) {
      const float first = load(in[j]), second = load(in[half + j]);
      store(first * cosine[j] - sign * second * sine[j], out + j);
      store(second * cosine[j] + sign * first * sine[j], out + half + j);
    }
  }
};

template <typename T>
void turn_heads(const at::Tensor& x, const RopeTable& table, float sign, const at::Tensor& out) {
  const auto heads = x.size(1), half = x.size(2) / 2;
  at::parallel_for(0, x.size(0), 4, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin * heads; n < end * heads; ++n) {
      run_fastest<Turn>(x.const_data_ptr<T>() + n * 2 * half, table.cosine.const_data_ptr<float>() + n / heads * half,
                        table.sine.const_data_ptr<float>() + n / heads * half, sign, half,
                        out.data_ptr<T>() + n * 2 * half);
    }
  });
}

at::Tensor turned(const at::Tensor& any_x, const RopeTable& table, float sign) {
  const at::Tensor x = any_x.contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options());
  (x.scalar_type() == at::kBFloat16 ? turn_heads<c10::BFloat16> : turn_heads<float>)(x, table, sign, out);
  return out;
}

class Rope : public torch::autograd::Function<Rope> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& cosine,
                            const at::Tensor& sine) {
    context->save_for_backward({cosine, sine});
    return turned(x, {cosine, sine}, 1.0f);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    return {turned(grads[0], {saved[0], saved[1]}, -1.0f), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table) {
  const bool is_known = x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat;
  if (x.device().is_cpu() && is_known) return Rope::apply(x, table.cosine, table.sine);
  const auto halves = x.chunk(2, -1);
  const at::Tensor cosine = table.cosine.unsqueeze(1), sine = table.sine.unsqueeze(1);
  // Float32 tables promote the products, so each result is rounded once.
  return at::cat({halves[0] * cosine - halves[1] * sine, halves[1] * cosine + halves[0] * sine}, -1)
      .to(x.scalar_type());
}

}  // namespace ossature
