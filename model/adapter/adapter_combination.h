// Adapters made of adapters: weighted sums and differences, and lower ranks. A weight's delta is scale * B A and is
// never formed; of experts each has its own.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/adapter/lora.h"

namespace ossature {

/// An adapter and the factor of its delta. `name` is for messages.
struct WeightedLora {
  const Lora* lora = nullptr;
  double weight = 1.0;
  std::string name = {};
};

/// PEFT's combination_type (add_weighted_adapter of peft 0.21). kCat: pairs one after the other, so delta = sum of
/// weight * delta exactly and the rank is the sum of the ranks. kSvd: the best approximation of that delta of a given
/// rank. kLinear: A and B are summed each on their own with sqrt(|weight * scale|), which keeps the rank but multiplies
/// every A with every B: the delta is that of no sum.
enum class Combination { kCat, kLinear, kSvd };

/// What a target of a resized adapter has kept of its energy, the sum of its squared singular values.
struct ResizedTarget {
  std::string name;
  std::int64_t layer = 0;
  LoraSlot slot = LoraSlot::kQProj;
  std::int64_t r_before = 0, r = 0;
  double kept_energy = 1.0;        // of all experts together
  double least_kept_energy = 1.0;  // of the expert that lost the most; of others the same as kept_energy
};

struct ResizedLora {
  Lora lora;
  std::vector<ResizedTarget> targets;
  double kept_energy = 1.0;  // of the whole adapter
};

/// To rank `r`, or to the least rank up to `r` at which each weight (of experts: each expert) keeps `energy` of 0 to 1.
/// A target whose rank is no larger keeps its rank. Every scale of the result is 1.
[[nodiscard]] ResizedLora resize(const Lora& lora, const ModelConfig& model, std::int64_t r,
                                 std::optional<double> energy = std::nullopt);

/// kCat or kLinear. A target that some adapter has not got takes from the others with kCat. Throws CheckpointError on
/// ranks that differ or targets that not all have with kLinear, a weight that is not finite, a rank beyond kMaxLoraRank
/// or an empty list. Every scale of the result is 1.
[[nodiscard]] Lora combine(std::span<const WeightedLora> adapters, const ModelConfig& model, Combination combination);

/// kSvd: `r` unless given is the largest rank of any adapter, as in PEFT.
[[nodiscard]] ResizedLora combine_svd(std::span<const WeightedLora> adapters, const ModelConfig& model,
                                      std::optional<std::int64_t> r = std::nullopt);

}  // namespace ossature
