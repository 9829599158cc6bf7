// How many micro-batches of a step go through the layers together, of a model that is read as it is used: the more, the
// less is read; the fewer, the more layers keep their activations and need not run again. What costs less depends on
// what the machine computes and its disk reads in a second, so both are measured first.
#pragma once

#include "model/checkpoint/checkpoint.h"
#include "train/plan/memory_plan.h"
#include "train/recipe/recipe.h"

namespace ossature {

struct MachineRates {
  double gflop_per_second = 0.0;  // of matrix products
  double bytes_per_second = 0.0;  // of the disk that has the base model, past the page cache
};

/// The rate at which the disk gives a layer of `base`, of which it reads two: seconds, of a model larger than memory.
[[nodiscard]] double probe_bytes_per_second(const Checkpoint& base);

/// What a step takes at best: its arithmetic, or the reading of weights, whichever is more. Of a plan that does not
/// page: its arithmetic.
[[nodiscard]] double step_seconds(const Recipe& recipe, const ModelConfig& model, const MemoryPlan& plan,
                                  const MachineRates& rates);

/// `plan` itself, or if fewer micro-batches together would make a step shorter, the plan that does so most.
[[nodiscard]] MemoryPlan fastest_plan(const Recipe& recipe, const ModelConfig& model, const MemoryPlan& plan,
                                      const MachineRates& rates);

}  // namespace ossature
