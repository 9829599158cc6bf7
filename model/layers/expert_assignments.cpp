#include "model/layers/expert_assignments.h"

#include <ATen/ATen.h>

namespace ossature {

Assignments assign(const at::Tensor& indices, std::int64_t num_experts) {
  Assignments result;
  const at::Tensor flat = indices.reshape(-1);
  result.order = std::get<1>(at::sort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  result.tokens = result.order.div(indices.size(1), "floor");
  const at::Tensor counts = at::bincount(flat, {}, num_experts).cpu();
  result.offsets.assign(static_cast<std::size_t>(num_experts) + 1, 0);
  for (std::int64_t e = 0; e < num_experts; ++e) {
    const auto i = static_cast<std::size_t>(e);
    result.offsets[i + 1] = result.offsets[i] + counts.const_data_ptr<std::int64_t>()[e];
  }
  return result;
}

}  // namespace ossature
