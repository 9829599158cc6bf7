#include "model/layers/rms_norm.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

using namespace vector_math;

/// Returns rsqrt(mean(x^2) + eps).
struct ForwardRow {
  template <typename T>
  OSSATURE_INLINE static float run(const float* x, const float* weight, std::int64_t size, float eps, T* out) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < size; ++j) sum += x[j] * x[j];
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(size) + eps);
#pragma omp simd
    for (std::int64_t j = 0; j < size; ++j) store(x[j] * scale * weight[j], out + j);
    return scale;
  }
};

struct BackwardRow {
  template <typename T>
  OSSATURE_INLINE static void run(const float* x, const float* weight, const T* grad, float scale, std::int64_t size,
                                  float* out) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < size; ++j) sum += load(grad[j]) * weight[j] * x[j];
    const float along = sum * scale * scale / static_cast<float>(size);
#pragma omp simd
    for (std::int64_t j = 0; j < size; ++j) out[j] = scale * (load(grad[j]) * weight[j] - along * x[j]);
  }
};

template <typename T>
void forward_rows(const at::Tensor& x, const at::Tensor& weight, float eps, const at::Tensor& out,
                  const at::Tensor& scales) {
  const auto size = x.size(1);
  at::parallel_for(0, x.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      scales.data_ptr<float>()[n] =
          run_fastest<ForwardRow>(x.const_data_ptr<float>() + n * size, weight.const_data_ptr<float>(), size, eps,
                                  out.data_ptr<T>() + n * size);
    }
  });
}

template <typename T>
void backward_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scales, const at::Tensor& grad,
                   const at::Tensor& out) {
  const auto size = x.size(1);
  at::parallel_for(0, x.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      run_fastest<BackwardRow>(x.const_data_ptr<float>() + n * size, weight.const_data_ptr<float>(),
                               grad.const_data_ptr<T>() + n * size, scales.const_data_ptr<float>()[n], size,
                               out.data_ptr<float>() + n * size);
    }
  });
}

/// For a weight that is not trained, on the CPU.
class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& any_x,
                            const at::Tensor& any_weight, double eps, at::ScalarType dtype) {
    const at::Tensor x = any_x.contiguous(), weight = any_weight.to(at::kFloat).contiguous();
    at::Tensor out = at::empty(x.sizes(), dtype), scales = at::empty({x.size(0)}, at::kFloat);
    (dtype == at::kBFloat16 ? forward_rows<c10::BFloat16> : forward_rows<float>)(x, weight, static_cast<float>(eps),
                                                                                 out, scales);
    context->save_for_backward({x, weight, scales});
    return out;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor out = at::empty(saved[0].sizes(), at::kFloat);
    (grad.scalar_type() == at::kBFloat16 ? backward_rows<c10::BFloat16> : backward_rows<float>)(saved[0], saved[1],
                                                                                                saved[2], grad, out);
    return {out, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype) {
  const bool is_known = dtype == at::kBFloat16 || dtype == at::kFloat;
  if (x.device().is_cpu() && x.dim() == 2 && x.scalar_type() == at::kFloat && is_known && !weight.requires_grad()) {
    return RmsNorm::apply(x, weight, eps, dtype);
  }
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scaled = wide * at::rsqrt(wide.square().mean(-1, true) + eps);
  return (scaled * weight.to(at::kFloat)).to(dtype);
}

}  // namespace ossature
