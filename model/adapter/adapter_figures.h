// How large and how rich in ranks the deltas of an adapter are, weight by weight and of experts each on its own.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/adapter/lora.h"
#include "model/checkpoint/checkpoint.h"

namespace ossature {

/// Of one matrix scale * B A.
struct DeltaFigures {
  double norm = 0.0;                         // Frobenius
  std::optional<double> relative_norm = {};  // norm / norm of the base weight
  double effective_rank = 0.0;
  double stable_rank = 0.0;
};

struct TargetFigures {
  LoraTarget target;
  std::vector<DeltaFigures> matrices;        // one, or one an expert
  double norm = 0.0;                         // of all matrices together
  std::optional<double> relative_norm = {};  // that, by the norm of all base matrices
};

/// `base`, when given, is the checkpoint that the adapter is for; its weights are read one by one. `progress`, when
/// given, hears the targets done and the targets in all.
[[nodiscard]] std::vector<TargetFigures> measure(const Lora& lora, const Checkpoint* base = nullptr,
                                                 const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
