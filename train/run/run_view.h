// What a run shows as it goes: on a terminal one line that is rewritten each step, otherwise a line a step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "train/run/metrics.h"
#include "train/text/running_mean.h"

namespace ossature {

/// What the line says besides the step's own metrics.
struct RunOutlook {
  std::int64_t total_steps = 0;
  double smoothed_loss = 0;
  double seconds_left = 0;
  std::optional<double> share_of_roofline;  // of LibTorch's matrix products
};

/// "[#####.............]  12/340  loss 2.3140  lr 1.80e-04  412 tokens/s (81 %)  12.1 GB  3:05 left", of at most
/// `width` characters: where that is too narrow the bar goes first, then learning rate, memory and share.
[[nodiscard]] std::string live_line(const StepMetrics& metrics, const RunOutlook& outlook, std::size_t width);

/// Writes to stderr.
class RunView {
 public:
  /// `gflop_per_token` and `gflop_per_second` give the share of the roofline; it is left out if either is 0.
  RunView(std::int64_t total_steps, double gflop_per_token, double gflop_per_second);
  ~RunView() { finish(); }
  RunView(const RunView&) = delete;
  RunView& operator=(const RunView&) = delete;

  [[nodiscard]] static bool is_live();

  void show(const StepMetrics& metrics, double seconds_left);
  /// A line that stays.
  void say(const std::string& line);
  /// The live line stays, and what comes next stands below it.
  void finish();

 private:
  std::int64_t total_steps_;
  double gflop_per_token_, gflop_per_second_;
  bool is_live_;
  RunningMean loss_{0.9};
  std::string line_;  // the live one, to be drawn again below what was said
};

}  // namespace ossature
