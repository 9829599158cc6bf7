// The learning rate of each optimizer step.
#pragma once

#include <cstdint>

#include "train/recipe/recipe.h"

namespace ossature {

struct LrSchedule {
  LrScheduler shape = LrScheduler::kCosine;
  double learning_rate = 0;  // the largest
  std::int64_t warmup_steps = 0;
  double min_lr_ratio = 0;  // of learning_rate, reached where the step after the last would be
};

/// The learning rate of `step` (from 0) of a run of `total_steps`. With w = warmup_steps and p = (step - w) / (total -
/// w):
///   step < w     learning_rate * (step + 1) / w, so that the first step learns too (transformers starts at 0)
///   constant     learning_rate
///   linear       learning_rate * (1 - p * (1 - min_lr_ratio))
///   cosine       learning_rate * (min_lr_ratio + (1 - min_lr_ratio) * (1 + cos(pi * p)) / 2)
/// After the warm-up these are transformers' get_constant_schedule_with_warmup, get_linear_schedule_with_warmup (for
/// min_lr_ratio 0) and get_cosine_with_min_lr_schedule_with_warmup. Steps past the last have p = 1.
[[nodiscard]] double learning_rate(const LrSchedule& schedule, std::int64_t step, std::int64_t total_steps);

}  // namespace ossature
