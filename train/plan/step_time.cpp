#include "train/plan/step_time.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace ossature {
namespace {

/// A message that does not fit into a packet is announced, asked for and sent.
constexpr double kTripsPerMessage = 3.0;
/// Sums of a few numbers after those of the gradients, one after another: the step's metrics, and whether to stop.
constexpr double kSmallSums = 2.0;

double floor_of_log2(std::int64_t ranks) {
  return static_cast<double>(std::bit_width(static_cast<std::uint64_t>(ranks)) - 1);
}

/// Bytes that a link carries in each direction, for each byte that is summed, by recursive halving and doubling
/// (Thakur, Rabenseifner and Gropp, 2005), which train/ranks/ranks_mpi.cpp asks Open MPI for: the ranks beyond a power
/// of two hand everything to another before, and get it back after.
double volume(std::int64_t ranks) {
  const double power = std::exp2(floor_of_log2(ranks));
  return 2.0 * (1.0 - 1.0 / power) + (power == static_cast<double>(ranks) ? 0.0 : 2.0);
}

double rounds(std::int64_t ranks) {
  return ranks == 1 ? 0.0 : 2.0 * std::ceil(std::log2(static_cast<double>(ranks)));
}

}  // namespace

double parse_bit_rate(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const std::string unit(end);
  const double factor = unit == "Gbit" ? 1e9 : unit == "Mbit" ? 1e6 : 0.0;
  return number > 0.0 && std::isfinite(number) ? number * factor : 0.0;
}

StepTime step_time(const StepWork& work, std::int64_t ranks, std::int64_t stages, const Network& network) {
  StepTime time;
  const auto pipelines = ranks / stages;
  const double own = std::ceil(static_cast<double>(work.micro_batches) / static_cast<double>(pipelines));
  const double of_stage = work.micro_batch_seconds / static_cast<double>(stages);
  // A stage computes while what it gets and gives is on the network.
  const double boundary = stages > 1 ? work.boundary_bytes / network.bytes_per_second : 0.0;
  time.computing = std::max(own * of_stage, own * 2.0 * boundary) +
                   static_cast<double>(stages - 1) * (of_stage + 2.0 * (boundary + network.latency_seconds));
  if (ranks == 1) return time;

  const double sums = volume(ranks) * work.gradient_bytes / network.bytes_per_second;
  const auto layers = static_cast<double>(work.layers);
  // While the layers below the last one go back, sums are under way; that of the lowest layer begins when all is done.
  const double hidden = work.backward_share * of_stage * (layers - 1.0) / layers;
  time.network = std::max(sums / layers, sums - hidden) +
                 (kTripsPerMessage + kSmallSums) * rounds(ranks) * network.latency_seconds;
  time.stragglers = kStepDeviation * own * of_stage * std::sqrt(2.0 * std::log(static_cast<double>(ranks)));
  return time;
}

}  // namespace ossature
