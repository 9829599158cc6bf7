// Which part of a run's work is whose.
#pragma once

#include <cstdint>
#include <optional>

#include "model/network/stage.h"
#include "train/recipe/recipe.h"

namespace ossature {

/// Ranks in a row are the stages of a pipeline, which has all layers; such pipelines share the micro-batches of a step.
struct RankLayout {
  std::int64_t stage = 0, stages = 1;        // of a pipeline
  std::int64_t pipeline = 0, pipelines = 1;  // each of `stages` ranks

  /// Of `num` micro-batches that a step has: those of this pipeline.
  [[nodiscard]] std::int64_t num_own(std::int64_t num) const { return (num - pipeline + pipelines - 1) / pipelines; }
  /// The number in the step of this pipeline's `i`-th.
  [[nodiscard]] std::int64_t number_in_step(std::int64_t i) const { return i * pipelines + pipeline; }

  /// The layers of this rank; nullopt where it has all. Throws RecipeError where there are more stages than layers.
  [[nodiscard]] std::optional<Stage> stage_in(const ModelConfig& model) const;
};

/// Of rank number `rank` of `ranks`. Throws RecipeError where those are no multiple of train.pipeline_stages, or a step
/// has fewer micro-batches than there are pipelines.
[[nodiscard]] RankLayout layout_of(const Recipe& recipe, std::int64_t rank, std::int64_t ranks);

}  // namespace ossature
