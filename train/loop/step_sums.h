// What an optimizer step adds up, over its micro-batches and over the ranks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/network/backpropagation.h"
#include "model/network/router_load.h"
#include "train/ranks/ranks.h"
#include "train/run/metrics.h"

namespace ossature {

struct StepSums {
  LossSum loss;
  std::int64_t tokens = 0;                             // computed
  std::map<std::string, std::int64_t> channel_tokens;  // learned, by kind of segment, where it is known
  RouterLoad router_load;
  // Of each rank, this one's filled in: computing, then waiting for the sums of gradients.
  std::vector<double> seconds, seconds_waited;

  StepSums(const ModelConfig& model, const Ranks& ranks);
};

/// Adds up what the ranks have. Collective. Counts stay exact below 2^53.
void sum_over(Ranks& ranks, StepSums& sums);

/// Of sums over the ranks.
[[nodiscard]] RankTimes rank_times(const StepSums& sums);

}  // namespace ossature
