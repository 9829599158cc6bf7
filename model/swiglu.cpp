#include "model/swiglu.h"

#include <bit>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

namespace ossature {
namespace {

constexpr std::int64_t kChunk = 256;  // features handled at once; the buffers stay in the first-level cache
constexpr auto kAlpha = static_cast<float>(kSwigluAlpha);

#define OSSATURE_INLINE inline __attribute__((always_inline))

OSSATURE_INLINE float load(float value) {
  return value;
}
OSSATURE_INLINE float load(c10::BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.x) << 16);
}
OSSATURE_INLINE void store(float value, float* out) {
  *out = value;
}
OSSATURE_INLINE void store(float value, c10::BFloat16* out) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  out->x = static_cast<std::uint16_t>(value != value ? 0x7fc0u : rounded);
}

/// exp(-x) by 2^n times a polynomial (Taylor to the seventh power on |r| <= ln2/2): relative error below 2e-7, and
/// unlike std::exp it runs in vector registers.
OSSATURE_INLINE float exp_negative(float x) {
  const float clamped = x > 87.0f ? 87.0f : (x < -87.0f ? -87.0f : x);
  const float y = -clamped;
  const float shifted = y * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const float n = shifted - 12582912.0f;
  const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto exponent = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
  const float result = p * std::bit_cast<float>(exponent);
  return x != x ? x : result;
}

template <typename T>
OSSATURE_INLINE void forward_row(const T* u, T* h, std::int64_t size, float limit) {
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
      const float g = gate[j] > limit ? limit : gate[j];
      float l = up[j] > limit ? limit : up[j];
      l = l < -limit ? -limit : l;
      store(g / (1.0f + exp_negative(kAlpha * g)) * (l + 1.0f), h + first + j);
    }
  }
}

template <typename T>
OSSATURE_INLINE void backward_row(const T* u, const T* grad, T* du, std::int64_t size, float limit) {
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
      const float g = gate[j] > limit ? limit : gate[j];
      float l = up[j] > limit ? limit : up[j];
      l = l < -limit ? -limit : l;
      const float sigmoid = 1.0f / (1.0f + exp_negative(kAlpha * g));
      const float d = load(grad[first + j]);
      const float dgate = d * (l + 1.0f) * sigmoid * (1.0f + kAlpha * g * (1.0f - sigmoid));
      const float dup = d * g * sigmoid;
      gate[j] = gate[j] > limit ? 0.0f : dgate;
      up[j] = up[j] > limit || up[j] < -limit ? 0.0f : dup;
    }
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) {
      store(gate[j], du + 2 * (first + j));
      store(up[j], du + 2 * (first + j) + 1);
    }
  }
}

// The same row, compiled for the processor at hand.
#define OSSATURE_WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
template <typename T>
OSSATURE_WIDE void forward_row_wide(const T* u, T* h, std::int64_t size, float limit) {
  forward_row(u, h, size, limit);
}
template <typename T>
OSSATURE_WIDE void backward_row_wide(const T* u, const T* grad, T* du, std::int64_t size, float limit) {
  backward_row(u, grad, du, size, limit);
}
bool is_wide() {
  static const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return wide;
}

template <typename T>
void forward_rows(const at::Tensor& u, const at::Tensor& h, float limit) {
  const auto size = h.size(1);
  const T* in = u.const_data_ptr<T>();
  T* out = h.data_ptr<T>();
  at::parallel_for(0, u.size(0), 4, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      if (is_wide()) {
        forward_row_wide(in + n * 2 * size, out + n * size, size, limit);
      } else {
        forward_row(in + n * 2 * size, out + n * size, size, limit);
      }
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
      if (is_wide()) {
        backward_row_wide(in + n * 2 * size, grad + n * size, out + n * 2 * size, size, limit);
      } else {
        backward_row(in + n * 2 * size, grad + n * size, out + n * 2 * size, size, limit);
      }
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
