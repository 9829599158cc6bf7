// The gradients of an optimizer step: its micro-batches, those of all ranks, through the layers and back.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "data/batches/loader.h"
#include "model/network/backpropagation.h"
#include "train/loop/gradient_sum.h"
#include "train/loop/learned_channels.h"
#include "train/loop/non_finite.h"
#include "train/loop/step_sums.h"
#include "train/plan/memory_plan.h"
#include "train/ranks/rank_layout.h"
#include "train/ranks/rank_link.h"
#include "train/recipe/recipe.h"
#include "train/run/trained_model.h"
#include "train/run/training_files.h"

namespace ossature {

class StepGradients {
 public:
  /// Keeps references to all but the layout and the plan. Not collective.
  StepGradients(const Recipe& recipe, Ranks& ranks, const RankLayout& layout, const MemoryPlan& plan,
                TrainedModel& model, const RunFiles& files);

  /// Collective, as the functions below; once, before the others.
  void agree();

  /// Takes the next `num_micro_batches` and leaves the gradients of their loss sum in the model's parameters, on every
  /// rank. `step`: steps done, of which dropout's masks are a function. `on_grid` as ExpertsOptions has it.
  [[nodiscard]] StepSums compute(std::int64_t step, std::int64_t num_micro_batches, bool on_grid);

  /// What was not finite in the step that was computed last, and where it comes from. Zeroes the gradients.
  [[nodiscard]] Culprit find_culprit(bool on_grid);

  /// Loss sum of the validation file. Calls `check`, which may throw, before some of its batches, the same ones in
  /// every rank.
  [[nodiscard]] LossSum validate(bool on_grid, const std::function<void()>& check);

  [[nodiscard]] Loader& loader() { return loader_; }
  [[nodiscard]] const Loader& loader() const { return loader_; }

 private:
  [[nodiscard]] const Stage* stage() const { return stage_ ? &*stage_ : nullptr; }
  [[nodiscard]] BackpropagationOptions options(bool on_grid);

  const Recipe& recipe_;
  Ranks& ranks_;
  const RankLayout layout_;
  MemoryPlan plan_;
  TrainedModel& model_;
  const RunFiles& files_;
  Loader loader_;
  GradientSum gradient_sum_;
  HarmonyTokens harmony_;
  RankLink link_;
  std::optional<Stage> stage_;  // this rank's layers, where ranks share them
  // Of the step that was computed last, this rank's.
  std::vector<Batch> batches_;
  std::vector<TokenRows> rows_;
};

}  // namespace ossature
