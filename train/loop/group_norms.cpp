#include "train/loop/group_norms.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

namespace ossature {
namespace {

void take_roots(GroupNorms& squares) {
  for (auto& [group, square] : squares) square = std::sqrt(square);
}

/// a [.., m, k] -> a a^T [.., m, m].
at::Tensor gram(const at::Tensor& a) {
  return at::matmul(a, a.transpose(-2, -1));
}

}  // namespace

std::string parameter_group(std::string_view name) {
  for (const char* group : {"q_proj", "k_proj", "v_proj", "o_proj", "experts.gate_up_proj", "experts.down_proj",
                            "router", "sinks", "embed_tokens", "lm_head"}) {
    if (name.find("." + std::string(group)) != std::string_view::npos || name.starts_with(group)) return group;
  }
  return "norms";
}

GroupNorms gradient_norms(const ParameterSet& parameters) {
  const at::Tensor gradients = parameters.gradients().cpu();
  const float* values = gradients.const_data_ptr<float>();
  const std::size_t count = parameters.specs().size();
  std::vector<std::int64_t> ends;
  for (std::size_t i = 0; i < count; ++i) ends.push_back((i > 0 ? ends.back() : 0) + parameters.tensor(i).numel());
  std::vector<double> squares(count);
  at::parallel_for(0, static_cast<std::int64_t>(count), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto p = static_cast<std::size_t>(begin); p < static_cast<std::size_t>(end); ++p) {
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (auto i = ends[p] - parameters.tensor(p).numel(); i < ends[p]; ++i)
        sum += static_cast<double>(values[i]) * values[i];
      squares[p] = sum;
    }
  });
  GroupNorms norms;
  for (std::size_t p = 0; p < count; ++p) norms[parameter_group(parameters.specs()[p].name)] += squares[p];
  take_roots(norms);
  return norms;
}

GroupNorms adapter_norms(const Lora& lora) {
  const at::NoGradGuard no_grad;
  GroupNorms norms;
  for (const LoraTarget& target : lora.targets()) {
    // |B A|^2 = tr(A^T B^T B A) = sum of (B^T B) * (A A^T), elementwise as both are symmetric.
    const at::Tensor products = gram(lora.b(target).transpose(-2, -1)) * gram(lora.a(target));
    norms[slot_name(target.slot)] += target.scale * target.scale * products.sum(at::kDouble).item<double>();
  }
  for (auto& [group, square] : norms) square = std::max(square, 0.0);
  take_roots(norms);
  return norms;
}

}  // namespace ossature
