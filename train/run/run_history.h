// What metrics.jsonl tells of a run.
#pragma once

#include <filesystem>
#include <vector>

#include "train/run/metrics.h"

namespace ossature {

/// In the order of the file. A figure that a line has not got is NaN, a count 0.
struct RunHistory {
  std::vector<StepMetrics> steps;
  std::vector<SkippedStep> skipped;
  std::vector<ValidationMetrics> validations;

  [[nodiscard]] std::int64_t last_step() const;
  [[nodiscard]] std::int64_t tokens() const;
  /// Of steps, skipped ones too, and validations.
  [[nodiscard]] double seconds() const;
  /// The validation of the lowest loss; nullptr if there is none.
  [[nodiscard]] const ValidationMetrics* best() const;
};

/// Of a run that goes on, or was killed while it wrote, too: what is no whole line of metrics is passed over. Empty if
/// there is no file yet.
[[nodiscard]] RunHistory read_run_history(const std::filesystem::path& run_dir);

}  // namespace ossature
