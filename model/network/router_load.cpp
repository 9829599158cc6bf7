#include "model/network/router_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>

namespace ossature {

RouterLoad::RouterLoad(std::int64_t num_layers, std::int64_t num_experts)
    : tokens_(static_cast<std::size_t>(num_layers), std::vector<std::int64_t>(static_cast<std::size_t>(num_experts))) {}

void RouterLoad::add(std::int64_t layer, const at::Tensor& indices) {
  std::vector<std::int64_t>& counts = tokens_[static_cast<std::size_t>(layer)];
  const at::Tensor chosen = indices.cpu().contiguous();
  const auto* experts = chosen.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < chosen.numel(); ++i) ++counts[static_cast<std::size_t>(experts[i])];
}

std::vector<double> RouterLoad::largest_over_mean() const {
  std::vector<double> load;
  for (const std::vector<std::int64_t>& counts : tokens_) {
    const auto sum = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    const auto largest = sum > 0 ? *std::max_element(counts.begin(), counts.end()) : 0;
    const double ratio =
        sum > 0 ? static_cast<double>(largest) * static_cast<double>(counts.size()) / static_cast<double>(sum) : 0.0;
    load.push_back(std::round(ratio * 1000) / 1000);
  }
  return load;
}

}  // namespace ossature
