#include "model/adapter/adapter_combination.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/low_rank_svd.h"
#include "model/adapter/merge.h"
#include "model/adapter/spectrum.h"

namespace ossature {
namespace {

/// A target of an adapter in the making.
struct TargetPair {
  std::string name;
  std::int64_t layer = 0;
  LoraSlot slot = LoraSlot::kQProj;
  LowRank pair;

  [[nodiscard]] std::int64_t r() const { return pair.b.size(-1); }
};

bool is_parameter(LoraSlot slot) {
  return slot == LoraSlot::kRouter || slot == LoraSlot::kGateUpProj || slot == LoraSlot::kDownProj;
}

/// The value that most of `values` have.
std::int64_t most_common(const std::vector<std::int64_t>& values) {
  std::map<std::int64_t, std::int64_t> counts;
  for (const std::int64_t value : values) ++counts[value];
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& x, const auto& y) { return x.second < y.second; })
      ->first;
}

/// A configuration that picks exactly `pairs` of a model, with their ranks and scale 1. A slot that every layer has is
/// named once ("q_proj"), others with their layer.
LoraConfig config_of(const std::vector<TargetPair>& pairs, const ModelConfig& model) {
  std::map<LoraSlot, std::vector<const TargetPair*>> slots;
  std::vector<std::int64_t> ranks;
  for (const TargetPair& pair : pairs) {
    slots[pair.slot].push_back(&pair);
    ranks.push_back(pair.r());
  }
  LoraConfig config;
  config.r = most_common(ranks);
  config.lora_alpha = static_cast<double>(config.r);
  for (const auto& [slot, in_slot] : slots) {
    auto& entries = is_parameter(slot) ? config.target_parameters : config.target_modules;
    // "model.layers.0.mlp.experts.down_proj": from the part after the layer, or, of a projection, its last.
    const std::string& name = in_slot.front()->name;
    const std::string prefix = "model.layers." + std::to_string(in_slot.front()->layer) + ".";
    const std::string plain = is_parameter(slot) ? name.substr(prefix.size()) : name.substr(name.rfind('.') + 1);
    const bool in_every_layer = static_cast<std::int64_t>(in_slot.size()) == model.num_hidden_layers;
    if (in_every_layer) entries.push_back(plain);
    const bool one_rank = std::all_of(in_slot.begin(), in_slot.end(),
                                      [&](const TargetPair* pair) { return pair->r() == in_slot.front()->r(); });
    for (const TargetPair* pair : in_slot) {
      if (!in_every_layer) entries.push_back(pair->name);
      if (pair->r() == config.r) continue;
      const std::string pattern = in_every_layer && one_rank ? plain : pair->name;
      config.rank_pattern[pattern] = pair->r();
      config.alpha_pattern[pattern] = static_cast<double>(pair->r());
    }
  }
  return config;
}

Lora lora_of(const std::vector<TargetPair>& pairs, const ModelConfig& model) {
  Lora lora(config_of(pairs, model), model, 0);
  at::NoGradGuard no_grad;
  std::map<std::string, const TargetPair*> by_name;
  for (const TargetPair& pair : pairs) by_name[pair.name] = &pair;
  for (const LoraTarget& target : lora.targets()) {
    const LowRank& pair = by_name.at(target.name)->pair;
    at::Tensor a = lora.a(target).detach(), b = lora.b(target).detach();
    a.copy_(pair.a);
    b.copy_(pair.b * pair.scale);
  }
  return lora;
}

/// The targets of some adapter, by name, and which adapters have each, in their order.
struct SharedTarget {
  const LoraTarget* target;
  std::vector<const WeightedLora*> of;
};

std::map<std::string, SharedTarget> targets_of(std::span<const WeightedLora> adapters) {
  if (adapters.empty()) throw CheckpointError("combination: no adapter; expected one or more");
  std::map<std::string, SharedTarget> all;
  for (const WeightedLora& adapter : adapters) {
    if (!std::isfinite(adapter.weight)) {
      throw CheckpointError("combination: the weight of " + adapter.name + " is not finite; expected a number");
    }
    for (const LoraTarget& target : adapter.lora->targets()) {
      SharedTarget& shared = all[target.name];
      shared.target = &target;
      shared.of.push_back(&adapter);
    }
  }
  return all;
}

/// The sums, exactly: the pairs of a target one after the other.
std::vector<TargetPair> cat_pairs(std::span<const WeightedLora> adapters) {
  Merger merger;
  for (const WeightedLora& adapter : adapters) merger.add(*adapter.lora, adapter.weight);
  std::vector<TargetPair> pairs;
  for (const auto& [name, shared] : targets_of(adapters)) {
    const LowRank sum = merger.pair(tensor_name(*shared.target));
    pairs.push_back(
        {name, shared.target->layer, shared.target->slot, {sum.a.detach().cpu(), sum.b.detach().cpu(), sum.scale}});
    if (pairs.back().r() > kMaxLoraRank) {
      throw CheckpointError("combination: " + name + " would have rank " + std::to_string(pairs.back().r()) +
                            "; expected at most " + std::to_string(kMaxLoraRank) + "; combine with svd");
    }
  }
  std::ranges::sort(pairs, {}, [](const TargetPair& pair) { return std::pair(pair.layer, pair.slot); });
  return pairs;
}

LowRank summed_apart(const std::string& name, const SharedTarget& shared, std::size_t num_adapters) {
  if (shared.of.size() != num_adapters) {
    throw CheckpointError("combination: " + name + " is a target of " + std::to_string(shared.of.size()) + " of the " +
                          std::to_string(num_adapters) +
                          " adapters; linear expects the same targets of all; use cat or svd");
  }
  at::Tensor a, b;
  for (const WeightedLora* adapter : shared.of) {
    const auto target = std::ranges::find(adapter->lora->targets(), name, &LoraTarget::name);
    const double scale = adapter->weight * target->scale, root = std::sqrt(std::abs(scale));
    const at::Tensor part_a = adapter->lora->a(*target).detach().cpu() * std::copysign(root, scale);
    const at::Tensor part_b = adapter->lora->b(*target).detach().cpu() * root;
    if (a.defined() && part_a.sizes() != a.sizes()) {
      throw CheckpointError("combination: " + name + " has rank " + std::to_string(target->r) + " in " + adapter->name +
                            " and " + std::to_string(b.size(-1)) + " in " + shared.of.front()->name +
                            "; linear expects equal ranks; use cat or svd, or resize one of them");
    }
    a = a.defined() ? a + part_a : part_a;
    b = b.defined() ? b + part_b : part_b;
  }
  return {a, b, 1.0};
}

/// The matrices of a pair: one, or one an expert.
std::int64_t num_matrices(const LowRank& pair) {
  return pair.a.dim() == 3 ? pair.a.size(0) : 1;
}
LowRank matrix(const LowRank& pair, std::int64_t e) {
  return pair.a.dim() == 3 ? LowRank{pair.a[e], pair.b[e], pair.scale} : pair;
}

std::vector<LowRankSvd> svds_of(const LowRank& pair) {
  std::vector<LowRankSvd> svds(static_cast<std::size_t>(num_matrices(pair)));
  at::parallel_for(0, num_matrices(pair), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto e = begin; e < end; ++e) svds[static_cast<std::size_t>(e)] = low_rank_svd(matrix(pair, e));
  });
  return svds;
}

/// Cuts the pairs one after the other, so that no more than one weight's decompositions are in memory.
ResizedLora resized(std::vector<TargetPair> pairs, const ModelConfig& model, std::int64_t r,
                    std::optional<double> energy) {
  at::NoGradGuard no_grad;
  std::vector<ResizedTarget> report;
  double all_kept = 0.0, all = 0.0;
  for (TargetPair& pair : pairs) {
    const std::vector<LowRankSvd> svds = svds_of(pair.pair);
    std::int64_t rank = std::min(r, pair.r());
    if (energy) {
      std::int64_t needed = 1;
      for (const LowRankSvd& svd : svds) needed = std::max(needed, rank_for_energy(svd.sigma, *energy));
      rank = std::min(rank, needed);
    }
    ResizedTarget line{pair.name, pair.layer, pair.slot, pair.r(), rank};
    double kept = 0.0, whole = 0.0;
    std::vector<at::Tensor> a, b;
    for (const LowRankSvd& svd : svds) {
      const LowRank cut = truncated(svd, rank);
      a.push_back(cut.a);
      b.push_back(cut.b);
      const double norm = frobenius_norm(svd.sigma), share = kept_energy(svd.sigma, rank);
      kept += norm * norm * share;
      whole += norm * norm;
      line.least_kept_energy = std::min(line.least_kept_energy, share);
    }
    line.kept_energy = whole > 0.0 ? kept / whole : 1.0;
    all_kept += kept;
    all += whole;
    const bool has_experts = pair.pair.a.dim() == 3;
    pair.pair = {has_experts ? at::stack(a) : a.front(), has_experts ? at::stack(b) : b.front(), 1.0};
    report.push_back(std::move(line));
  }
  return {lora_of(pairs, model), std::move(report), all > 0.0 ? all_kept / all : 1.0};
}

}  // namespace

ResizedLora resize(const Lora& lora, const ModelConfig& model, std::int64_t r, std::optional<double> energy) {
  const WeightedLora alone{&lora};
  return resized(cat_pairs({&alone, 1}), model, r, energy);
}

Lora combine(std::span<const WeightedLora> adapters, const ModelConfig& model, Combination combination) {
  if (combination == Combination::kCat) return lora_of(cat_pairs(adapters), model);
  std::vector<TargetPair> pairs;
  for (const auto& [name, shared] : targets_of(adapters)) {
    pairs.push_back({name, shared.target->layer, shared.target->slot, summed_apart(name, shared, adapters.size())});
  }
  return lora_of(pairs, model);
}

ResizedLora combine_svd(std::span<const WeightedLora> adapters, const ModelConfig& model,
                        std::optional<std::int64_t> r) {
  std::int64_t largest = 1;
  for (const WeightedLora& adapter : adapters) {
    for (const LoraTarget& target : adapter.lora->targets()) largest = std::max(largest, target.r);
  }
  return resized(cat_pairs(adapters), model, r.value_or(largest), std::nullopt);
}

}  // namespace ossature
