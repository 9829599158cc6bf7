#include "train/ranks/rank_layout.h"

#include <string>

namespace ossature {

std::optional<Stage> RankLayout::stage_in(const ModelConfig& model) const {
  if (stages == 1) return std::nullopt;
  if (stages > model.num_hidden_layers) {
    throw RecipeError("train.pipeline_stages: " + std::to_string(stages) + " stages; expected no more than the " +
                      std::to_string(model.num_hidden_layers) + " layers of the base model");
  }
  return stage_of(model, stages, stage);
}

RankLayout layout_of(const Recipe& recipe, std::int64_t rank, std::int64_t ranks) {
  RankLayout layout;
  layout.stages = recipe.train.pipeline_stages;
  if (ranks % layout.stages != 0) {
    throw RecipeError("train.pipeline_stages: " + std::to_string(layout.stages) + " stages, but the launcher started " +
                      std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks") +
                      "; expected a multiple of the stages, as of mpirun -n " + std::to_string(layout.stages));
  }
  layout.stage = rank % layout.stages;
  layout.pipelines = ranks / layout.stages;
  layout.pipeline = rank / layout.stages;
  if (const std::int64_t micro_batches = recipe.train.gradient_accumulation_steps; micro_batches < layout.pipelines) {
    throw RecipeError("train.gradient_accumulation_steps: a step has " + std::to_string(micro_batches) +
                      " micro-batches for " + std::to_string(layout.pipelines) +
                      (layout.stages == 1 ? " ranks" : " pipelines") +
                      " to share; expected as many or more, best a multiple");
  }
  return layout;
}

}  // namespace ossature
