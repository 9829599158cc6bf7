#include "model/adapter/merge.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace ossature {

at::Tensor merge(const at::Tensor& base, const LowRank& pair) {
  at::NoGradGuard no_grad;
  const at::Tensor weight = base.to(at::kFloat);
  return pair.defined() ? at::addmm(weight, pair.b.detach().cpu(), pair.a.detach().cpu(), 1.0, pair.scale) : weight;
}

LowRank expert_pair(const LowRank& pair, std::int64_t e) {
  if (!pair.defined()) return {};
  return {pair.a[e].detach(), pair.b[e].detach(), pair.scale};
}

at::Tensor merge_expert(const ExpertWeight& base, const LowRank& pair, std::int64_t e) {
  const at::Tensor weight =
      base.is_packed() ? mxfp4_decode_expert(base.packed, e, at::kFloat) : base.dense[e].to(at::kFloat);
  return pair.defined() ? merge(weight, expert_pair(pair, e)) : weight;
}

std::string tensor_name(const LoraTarget& target) {
  const bool is_parameter =
      target.slot == LoraSlot::kRouter || target.slot == LoraSlot::kGateUpProj || target.slot == LoraSlot::kDownProj;
  return is_parameter ? target.name : target.name + ".weight";
}

void Merger::add(const Lora& adapter, double weight) {
  at::NoGradGuard no_grad;
  for (const LoraTarget& target : adapter.targets()) {
    const LowRank added{adapter.a(target), adapter.b(target), target.scale * weight};
    const auto [found, is_new] = pairs_.try_emplace(tensor_name(target), added);
    places_[found->first] = {static_cast<std::size_t>(target.layer), target.slot};
    if (is_new) continue;
    LowRank& sum = found->second;
    sum = {at::cat({sum.a, added.a}, -2), at::cat({sum.b * sum.scale, added.b * added.scale}, -1)};
  }
}

LowRank Merger::pair(const std::string& name) const {
  const auto found = pairs_.find(name);
  return found == pairs_.end() ? LowRank{} : found->second;
}

bool Merger::changes_experts(std::int64_t n) const {
  for (const std::string& name : expert_weight_names(n))
    if (pairs_.count(name) > 0) return true;
  return false;
}

bool Merger::changes_experts() const {
  return std::any_of(places_.begin(), places_.end(), [](const auto& entry) {
    return entry.second.slot == LoraSlot::kGateUpProj || entry.second.slot == LoraSlot::kDownProj;
  });
}

void Merger::attach(Transformer& transformer) const {
  for (const auto& [name, place] : places_)
    low_rank(transformer.layers().at(place.layer), place.slot) = pairs_.at(name);
}

}  // namespace ossature
