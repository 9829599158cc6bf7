#include "train/optimizer/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ossature {

double learning_rate(const LrSchedule& schedule, std::int64_t step, std::int64_t total_steps) {
  const auto warmup = static_cast<double>(schedule.warmup_steps);
  if (step < schedule.warmup_steps) return schedule.learning_rate * static_cast<double>(step + 1) / warmup;
  const double decay_steps = std::max(1.0, static_cast<double>(total_steps) - warmup);
  const double progress = std::min(1.0, (static_cast<double>(step) - warmup) / decay_steps);
  double factor = 1;
  switch (schedule.shape) {
    case LrScheduler::kConstant:
      break;
    case LrScheduler::kLinear:
      factor = 1 - progress * (1 - schedule.min_lr_ratio);
      break;
    case LrScheduler::kCosine:
      factor = schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * (1 + std::cos(std::numbers::pi * progress)) / 2;
      break;
  }
  return schedule.learning_rate * factor;
}

}  // namespace ossature
