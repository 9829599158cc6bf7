// What a run writes into its folder as it goes, and what it shows: metrics.jsonl, TensorBoard events, samples.jsonl,
// and lines on stderr.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "train/recipe/recipe.h"
#include "train/run/metrics.h"
#include "train/run/run_view.h"
#include "train/run/sample_replies.h"
#include "train/run/step_log.h"

namespace ossature {

/// Of several ranks only the first has one that records; a default-built one does nothing.
class RunRecord {
 public:
  RunRecord() = default;

  /// Opens the files of the run folder, which is there, as of a run that goes on after `steps_done` steps; with 0 they
  /// start anew. With `evaluation_due` they forget what is of an evaluation after the last step. Throws
  /// std::system_error when the disk refuses, as the functions that write do.
  void open(const Recipe& recipe, std::int64_t steps_done, bool evaluation_due);
  /// As RunView's constructor.
  void begin_view(std::int64_t total_steps, double gflop_per_token, double gflop_per_second);

  void write(const StepMetrics& metrics, double seconds_left);
  void write(const SkippedStep& skipped);
  void write(const ValidationMetrics& metrics);
  void write(const SampleReply& reply);
  /// A line for the user, of what no file keeps.
  void say(const std::string& line);
  /// The live line stays, and what comes next stands below it.
  void finish();

 private:
  std::int64_t total_steps_ = 0;
  std::optional<MetricsLog> metrics_;
  std::optional<StepLog> samples_;
  std::optional<RunView> view_;
};

}  // namespace ossature
