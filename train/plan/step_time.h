// How long an optimizer step takes on several ranks: a model of computing, of the network, and of waiting for the
// slowest. train/README.md derives it, and scripts/bench ranks holds it against measurements.
#pragma once

#include <cstdint>
#include <string>

namespace ossature {

struct Network {
  double bytes_per_second = 0.0;  // of a rank's link, in each direction
  double latency_seconds = 0.0;   // of a packet, one way
};

/// "10Gbit", "1Gbit", "100Mbit" -> bits per second; 0 for anything else.
[[nodiscard]] double parse_bit_rate(const std::string& text);

/// What a step is, whoever computes it.
struct StepWork {
  double micro_batch_seconds = 0.0;  // of one rank that computes a micro-batch alone, all layers
  std::int64_t micro_batches = 1;    // of a step
  double backward_share = 0.5;       // of a micro-batch's time
  std::int64_t layers = 1;           // whose gradients are summed, each as soon as it is complete
  double gradient_bytes = 0.0;
  double boundary_bytes = 0.0;  // that a micro-batch takes from one stage of a pipeline to the next
};

struct StepTime {
  double computing = 0.0;   // of each rank, the filling of pipelines included
  double network = 0.0;     // what of the sums is not hidden behind computing
  double stragglers = 0.0;  // waiting for the slowest rank
  [[nodiscard]] double total() const { return computing + network + stragglers; }
};

/// How much longer than the mean a rank's computing takes, as a standard deviation in relation to it. An assumption for
/// machines that are alike: none were at hand to measure it on.
inline constexpr double kStepDeviation = 0.02;

/// Of ranks that are alike, each on a link of its own; `stages` of them make a pipeline.
[[nodiscard]] StepTime step_time(const StepWork& work, std::int64_t ranks, std::int64_t stages, const Network& network);

}  // namespace ossature
