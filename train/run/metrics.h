// What a run reports as it goes: run_dir/metrics.jsonl (one JSON object a line), TensorBoard events in
// run_dir/tensorboard, and lines for the terminal.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/run/event_file.h"
#include "train/run/step_log.h"

namespace ossature {

/// How the ranks shared the time of a step. Seconds of computing, and of waiting then for the gradients of all.
struct RankTimes {
  std::int64_t ranks = 0;
  std::int64_t slowest = 0;  // the one that computed longest
  double slowest_seconds = 0;
  double fastest_seconds = 0;
  double network_seconds =
      0;  // that the rank waited which waited least: for what went over the network, not for others
};

/// One optimizer step.
struct StepMetrics {
  std::int64_t step = 0;  // steps done, this one included
  double loss = 0;        // weighted mean over the learned tokens of the step
  double learning_rate = 0;
  double grad_norm = 0;                                       // before clipping
  std::int64_t tokens = 0;                                    // computed in the step
  std::int64_t learned_tokens = 0;                            // of these, targets with a weight
  double seconds = 0;                                         // wall-clock time of the step
  double bookkeeping_seconds = 0;                             // since the last step's; see train/README.md
  std::int64_t peak_rss_bytes = 0;                            // of the process so far
  std::map<std::string, double> grad_norms = {};              // grad_norm by group of targets
  std::map<std::string, double> adapter_norms = {};           // of the deltas after the step, where measured
  std::map<std::string, std::int64_t> channel_tokens = {};    // learned_tokens by kind of segment, where it is known
  std::vector<double> router_load = {};                       // RouterLoad::largest_over_mean() of the step
  std::vector<std::vector<std::int64_t>> expert_tokens = {};  // RouterLoad::tokens() of the step, where written
  std::optional<RankTimes> ranks = {};                        // where there are several

  [[nodiscard]] double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

/// A step that updated nothing because its loss or gradient was not finite.
struct SkippedStep {
  std::int64_t step = 0;           // steps done, this one included
  std::int64_t skipped_steps = 0;  // of those, the ones skipped
  std::string non_finite;          // the first tensor that was not finite
  std::string samples;             // of the micro-batch that it belongs to, as their token files know them
  std::int64_t tokens = 0;
  std::int64_t learned_tokens = 0;
  double seconds = 0;
};

/// One pass over the validation data.
struct ValidationMetrics {
  std::int64_t step = 0;  // steps done before it; 0 for the untrained model
  double validation_loss = 0;
  std::int64_t learned_tokens = 0;
  double seconds = 0;
};

/// Writes both files. Lines are in the file when a function returns.
class MetricsLog {
 public:
  /// Goes on after `steps_done` steps: what the files of an earlier, interrupted run say of later steps is dropped.
  /// With 0 the files start anew. Throws std::system_error when the disk refuses, as all functions here.
  /// With `evaluation_due` a validation of the last of them is dropped too.
  MetricsLog(const std::filesystem::path& run_dir, std::int64_t steps_done, bool evaluation_due = false);

  void write(const StepMetrics& metrics);
  void write(const SkippedStep& skipped);
  void write(const ValidationMetrics& metrics);
  /// Shows the recipe in TensorBoard.
  void write_recipe(std::string_view yaml);

 private:
  StepLog lines_;
  EventFile events_;
};

/// "step 12/340  loss 2.3140  lr 1.80e-04  grad 0.83  412 tokens/s  12.1 GB  3:05 left"
[[nodiscard]] std::string progress_line(const StepMetrics& metrics, std::int64_t total_steps, double seconds_left);
/// "step 12/340  skipped (1): the gradient of NAME is not finite; samples train.h5 (chats.jsonl:12)"
[[nodiscard]] std::string progress_line(const SkippedStep& skipped, std::int64_t total_steps);
/// "step 12/340  validation loss 2.1020  (4096 tokens, 3.1 s)"
[[nodiscard]] std::string progress_line(const ValidationMetrics& metrics, std::int64_t total_steps);

}  // namespace ossature
