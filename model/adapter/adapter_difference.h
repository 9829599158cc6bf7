// How two adapters differ: first - second as one low-rank delta a weight.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/adapter/lora.h"

namespace ossature {

/// Frobenius norms of deltas; of experts, of all together. A target that one of the adapters has not got is zero there.
struct TargetDifference {
  std::string name;
  std::int64_t layer = 0;
  LoraSlot slot = LoraSlot::kQProj;
  double first_norm = 0.0, second_norm = 0.0, difference_norm = 0.0;
  double inner_product = 0.0;  // cosine = inner_product / (first_norm second_norm)
};

/// In the order of layers and, within one, of slots. Both adapters are of one model.
[[nodiscard]] std::vector<TargetDifference> compare(const Lora& first, const Lora& second);

}  // namespace ossature
