#include "model/export/exported_model.h"

#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/export/merged_experts.h"
#include "model/network/transformer_tensors.h"

namespace ossature {
namespace {

Mxfp4Tensor packed_experts(const ExpertWeight& weight, const LowRank& pair, const std::string& name) {
  if (weight.is_packed() && !pair.defined()) return weight.packed;
  std::vector<at::Tensor> blocks, scales;
  for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
    if (weight.is_packed()) {
      blocks.push_back(merged_blocks(weight.packed, pair, e, name));
    } else {
      const Mxfp4Tensor encoded = mxfp4_encode(merge_expert(weight, pair, e));
      blocks.push_back(encoded.blocks);
      scales.push_back(encoded.scales);
    }
  }
  return {at::stack(blocks), weight.is_packed() ? weight.packed.scales : at::stack(scales)};
}

}  // namespace

Transformer exported_transformer(const Checkpoint& base, const Merger& merger, const Replacements& replacements,
                                 at::ScalarType dtype) {
  at::NoGradGuard no_grad;
  Transformer result(base, dtype);
  for (std::size_t n = 0; n < result.layers().size(); ++n) {
    Experts& experts = result.layers()[n].experts;
    const auto names = expert_weight_names(static_cast<std::int64_t>(n));
    for (const auto& [name, weight] : {std::pair(names[0], &experts.gate_up), std::pair(names[1], &experts.down)}) {
      const Mxfp4Tensor* replaced = replaced_experts(&replacements, name);
      *weight = {replaced != nullptr ? *replaced : packed_experts(*weight, merger.pair(name), name), {}};
    }
  }
  for (const TensorShape& tensor : tensor_shapes(base.config())) {
    if (tensor.is_expert_weight) continue;
    at::Tensor& member = tensor_of(result, tensor.name);
    if (const at::Tensor* replaced = replaced_tensor(&replacements, tensor.name)) {
      member = *replaced;
    } else if (const LowRank pair = merger.pair(tensor.name); pair.defined()) {
      member = merged_as(member, pair, member.scalar_type(), tensor.name);
    }
  }
  return result;
}

}  // namespace ossature
