#include "model/layers/cross_entropy.h"

#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

using namespace vector_math;

/// Turns a row of logits into its gradient and returns -log p(target).
template <typename T>
OSSATURE_INLINE double row_gradient(T* row, std::int64_t size, std::int64_t target, float weight) {
  float most = load(row[0]);
#pragma omp simd reduction(max : most)
  for (std::int64_t j = 0; j < size; ++j) most = load(row[j]) > most ? load(row[j]) : most;
  const float target_logit = load(row[target]);
  // Parts of float32 sums stay short; their total is float64.
  constexpr std::int64_t kPart = 4096;
  double total = 0.0;
  for (std::int64_t first = 0; first < size; first += kPart) {
    const auto end = first + kPart < size ? first + kPart : size;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = first; j < end; ++j) sum += exp_negative(most - load(row[j]));
    total += sum;
  }
  const auto scale = static_cast<float>(weight / total);
#pragma omp simd
  for (std::int64_t j = 0; j < size; ++j) store(exp_negative(most - load(row[j])) * scale, row + j);
  store(static_cast<float>((std::exp(static_cast<double>(target_logit) - most) / total - 1.0) * weight), row + target);
  return std::log(total) - (static_cast<double>(target_logit) - most);
}

template <typename T>
double row_gradient_plain(T* row, std::int64_t size, std::int64_t target, float weight) {
  return row_gradient(row, size, target, weight);
}

template <typename T>
OSSATURE_WIDE double row_gradient_wide(T* row, std::int64_t size, std::int64_t target, float weight) {
  return row_gradient(row, size, target, weight);
}
template <typename T>
OSSATURE_AVX2 double row_gradient_avx2(T* row, std::int64_t size, std::int64_t target, float weight) {
  return row_gradient(row, size, target, weight);
}

template <typename T>
double cpu_gradient(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights) {
  static const auto kernel = fastest(row_gradient_wide<T>, row_gradient_avx2<T>, row_gradient_plain<T>);
  const auto size = logits.size(1);
  T* rows = logits.data_ptr<T>();
  const auto* indices = targets.const_data_ptr<std::int64_t>();
  const auto* factors = weights.const_data_ptr<float>();
  std::vector<double> losses(static_cast<std::size_t>(logits.size(0)));
  at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      losses[static_cast<std::size_t>(n)] = kernel(rows + n * size, size, indices[n], factors[n]) * factors[n];
    }
  });
  double sum = 0.0;
  for (const double loss : losses) sum += loss;
  return sum;
}

}  // namespace

double cross_entropy_gradient(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights) {
  if (logits.device().is_cpu()) {
    return logits.scalar_type() == at::kBFloat16 ? cpu_gradient<c10::BFloat16>(logits, targets, weights)
                                                 : cpu_gradient<float>(logits, targets, weights);
  }
  const at::Tensor index = targets.unsqueeze(1);
  const at::Tensor wide = logits.to(at::kFloat);
  const at::Tensor lse = wide.logsumexp(1, true);
  const at::Tensor losses = (lse - wide.gather(1, index)).squeeze(1) * weights;
  at::Tensor gradient = (wide - lse).exp_();
  gradient.scatter_add_(1, index, at::full_like(index, -1, gradient.options()));
  at::Tensor out = logits;
  out.copy_(gradient.mul_(weights.unsqueeze(1)));
  return losses.to(at::kDouble).sum().item<double>();
}

}  // namespace ossature
