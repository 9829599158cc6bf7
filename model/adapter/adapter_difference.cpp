#include "model/adapter/adapter_difference.h"

#include <cmath>
#include <map>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/low_rank_svd.h"
#include "model/adapter/spectrum.h"

namespace ossature {
namespace {

struct Pairs {
  std::string name;
  LowRank first, second;  // undefined where the adapter has no such target
};

LowRank pair_of(const Lora& lora, const LoraTarget& target) {
  return {lora.a(target).detach().cpu(), lora.b(target).detach().cpu(), target.scale};
}

LowRank expert(const LowRank& pair, std::int64_t e) {
  return pair.defined() && pair.a.dim() == 3 ? LowRank{pair.a[e], pair.b[e], pair.scale} : pair;
}

double norm_of(const LowRank& pair) {
  return pair.defined() ? frobenius_norm(singular_values(pair)) : 0.0;
}

LowRank minus(const LowRank& first, const LowRank& second) {
  if (!second.defined()) return first;
  if (!first.defined()) return second;  // of equal norm
  return {at::cat({first.a, second.a}), at::cat({first.b * first.scale, second.b * -second.scale}, 1), 1.0};
}

TargetDifference compare(const Pairs& pairs) {
  const LowRank& any = pairs.first.defined() ? pairs.first : pairs.second;
  const std::int64_t count = any.a.dim() == 3 ? any.a.size(0) : 1;
  std::vector<TargetDifference> parts(static_cast<std::size_t>(count));
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto e = begin; e < end; ++e) {
      TargetDifference& part = parts[static_cast<std::size_t>(e)];
      const LowRank first = expert(pairs.first, e), second = expert(pairs.second, e);
      part.first_norm = norm_of(first);
      part.second_norm = norm_of(second);
      part.difference_norm = norm_of(minus(first, second));
      if (first.defined() && second.defined()) part.inner_product = inner_product(first, second);
    }
  });
  TargetDifference all;
  for (const TargetDifference& part : parts) {
    all.first_norm = std::hypot(all.first_norm, part.first_norm);
    all.second_norm = std::hypot(all.second_norm, part.second_norm);
    all.difference_norm = std::hypot(all.difference_norm, part.difference_norm);
    all.inner_product += part.inner_product;
  }
  return all;
}

}  // namespace

std::vector<TargetDifference> compare(const Lora& first, const Lora& second) {
  at::NoGradGuard no_grad;
  std::map<std::pair<std::int64_t, LoraSlot>, Pairs> places;
  for (const LoraTarget& target : first.targets()) {
    places[{target.layer, target.slot}] = {target.name, pair_of(first, target), {}};
  }
  for (const LoraTarget& target : second.targets()) {
    Pairs& pairs = places[{target.layer, target.slot}];
    pairs.name = target.name;
    pairs.second = pair_of(second, target);
  }
  std::vector<TargetDifference> differences;
  for (const auto& [place, pairs] : places) {
    TargetDifference difference = compare(pairs);
    difference.name = pairs.name;
    difference.layer = place.first;
    difference.slot = place.second;
    differences.push_back(std::move(difference));
  }
  return differences;
}

}  // namespace ossature
