#include "model/layers/swiglu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/layers/swiglu_math.h"

namespace ossature {
namespace {

constexpr std::int64_t kChunk = 256;  // features handled at once; the buffers stay in the first-level cache
using namespace swiglu_math;

struct ForwardRow {
  template <typename T>
  OSSATURE_INLINE static void run(const T* u, T* h, std::int64_t size, float limit) {
    float gate[kChunk], up[kChunk];
    for (std::int64_t first = 0; first < size; first += kChunk) {
      const auto count = std::min(kChunk, size - first);
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        gate[j] = load(u[2 * (first + j)]);
        up[j] = load(u[2 * (first + j) + 1]);
      }
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        store(activation(gate[j], up[j], limit), h + first + j);
      }
    }
  }
};

struct BackwardRow {
  template <typename T>
  OSSATURE_INLINE static void run(const T* u, const T* grad, T* du, std::int64_t size, float limit) {
    float gate[kChunk], up[kChunk];
    for (std::int64_t first = 0; first < size; first += kChunk) {
      const auto count = std::min(kChunk, size - first);
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        gate[j] = load(u[2 * (first + j)]);
        up[j] = load(u[2 * (first + j) + 1]);
      }
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        float grad_gate, grad_up, unused;
        gradient(gate[j], up[j], limit, load(grad[first + j]), grad_gate, grad_up, unused);
        gate[j] = grad_gate;
        up[j] = grad_up;
      }
#pragma omp simd
      for (std::int64_t j = 0; j < count; ++j) {
        store(gate[j], du + 2 * (first + j));
        store(up[j], du + 2 * (first + j) + 1);
      }
    }
  }
};

template <typename T>
void forward_rows(const at::Tensor& u, const at::Tensor& h, float limit) {
  const auto size = h.size(1);
  const T* in = u.const_data_ptr<T>();
  T* out = h.data_ptr<T>();
  at::parallel_for(0, u.size(0), 4, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      run_fastest<ForwardRow>(in + n * 2 * size, out + n * size, size, limit);
    }
  });
}

template <typename T>
void backward_rows(const at::Tensor& u, const at::Tensor& grad_h, const at::Tensor& du, float limit) {
  const auto size = grad_h.size(1);
  const T* in = u.const_data_ptr<T>();
  const T* grad = grad_h.const_data_ptr<T>();
  T* out = du.data_ptr<T>();
  at::parallel_for(0, u.size(0), 4, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      run_fastest<BackwardRow>(in + n * 2 * size, grad + n * size, out + n * 2 * size, size, limit);
    }
  });
}

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& u, double limit) {
    context->save_for_backward({u});
    context->saved_data["limit"] = limit;
    return swiglu_forward(u, limit);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor u = context->get_saved_variables()[0];
    return {swiglu_backward(u, grads[0].contiguous(), context->saved_data["limit"].toDouble()), at::Tensor()};
  }
};

}  // namespace

at::Tensor swiglu_forward(const at::Tensor& u, double limit) {
  at::Tensor h = at::empty({u.size(0), u.size(1) / 2}, u.options());
  if (u.scalar_type() == at::kBFloat16) {
    forward_rows<c10::BFloat16>(u, h, static_cast<float>(limit));
  } else {
    forward_rows<float>(u, h, static_cast<float>(limit));
  }
  return h;
}

at::Tensor swiglu_backward(const at::Tensor& u, const at::Tensor& grad_h, double limit) {
  at::Tensor du = at::empty_like(u);
  if (u.scalar_type() == at::kBFloat16) {
    backward_rows<c10::BFloat16>(u, grad_h, du, static_cast<float>(limit));
  } else {
    backward_rows<float>(u, grad_h, du, static_cast<float>(limit));
  }
  return du;
}

at::Tensor swiglu(const at::Tensor& u, double limit) {
  if (u.device().is_cpu()) return Swiglu::apply(u.contiguous(), limit);
  const at::Tensor wide = u.to(at::kFloat);
  const at::Tensor gate = wide.slice(-1, 0, std::nullopt, 2).clamp_max(limit);
  const at::Tensor up = wide.slice(-1, 1, std::nullopt, 2).clamp(-limit, limit);
  return (gate * at::sigmoid(kSwigluAlpha * gate) * (up + 1)).to(u.scalar_type());
}

}  // namespace ossature
