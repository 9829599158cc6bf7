#include "model/network/parameters.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace ossature {
namespace {

std::int64_t numel_of(const ParameterSpec& spec) {
  return std::accumulate(spec.shape.begin(), spec.shape.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

ParameterSet::ParameterSet(std::vector<ParameterSpec> specs, at::Device device) : specs_(std::move(specs)) {
  std::stable_partition(specs_.begin(), specs_.end(), [](const ParameterSpec& spec) { return spec.decay; });
  std::int64_t total = 0;
  for (const ParameterSpec& spec : specs_) {
    total += numel_of(spec);
    if (spec.decay) num_decayed_ = total;
  }
  values_ = at::zeros({total}, at::TensorOptions().dtype(at::kFloat).device(device));
  gradients_ = at::zeros_like(values_);
  std::int64_t first = 0;
  for (const ParameterSpec& spec : specs_) {
    const auto count = numel_of(spec);
    at::Tensor leaf = values_.narrow(0, first, count).view(spec.shape).detach();
    leaf.set_requires_grad(true);
    leaf.mutable_grad() = gradients_.narrow(0, first, count).view(spec.shape);
    tensors_.push_back(std::move(leaf));
    first += count;
  }
}

const at::Tensor& ParameterSet::tensor(std::string_view name) const {
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (specs_[i].name == name) return tensors_[i];
  }
  throw std::out_of_range("no parameter named " + std::string(name));
}

double ParameterSet::gradient_norm() const {
  constexpr std::int64_t kChunk = 1 << 16;
  const at::Tensor gradients = gradients_.cpu();
  const auto* values = gradients.const_data_ptr<float>();
  const auto num_chunks = (numel() + kChunk - 1) / kChunk;
  std::vector<double> sums(static_cast<std::size_t>(num_chunks));
  at::parallel_for(0, num_chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto chunk = begin; chunk < end; ++chunk) {
      const auto last = std::min(numel(), (chunk + 1) * kChunk);
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (auto i = chunk * kChunk; i < last; ++i) sum += static_cast<double>(values[i]) * values[i];
      sums[static_cast<std::size_t>(chunk)] = sum;
    }
  });
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

}  // namespace ossature
