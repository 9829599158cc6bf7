#include "train/loop/step_sums.h"

#include <algorithm>
#include <type_traits>

#include "data/harmony/segments.h"

namespace ossature {

StepSums::StepSums(const ModelConfig& model, const Ranks& ranks)
    : router_load(model.num_hidden_layers, model.num_local_experts),
      seconds(static_cast<std::size_t>(ranks.size())),
      seconds_waited(seconds.size()) {}

void sum_over(Ranks& ranks, StepSums& sums) {
  if (ranks.size() == 1) return;
  // The same function puts the values into a row and takes them out again, so that the order is one.
  std::vector<double> row;
  bool takes_out = false;
  std::size_t next = 0;
  const auto pass = [&](auto& value) {
    if (takes_out) {
      value = static_cast<std::decay_t<decltype(value)>>(row[next++]);
    } else {
      row.push_back(static_cast<double>(value));
    }
  };
  const auto pass_all = [&] {
    pass(sums.loss.loss);
    pass(sums.loss.weight);
    pass(sums.loss.num_learned);
    pass(sums.tokens);
    for (std::size_t kind = 0; kind < kNumSegmentKinds; ++kind) {
      const std::string name(name_of(static_cast<SegmentKind>(kind)));
      std::int64_t count = 0;
      if (const auto found = sums.channel_tokens.find(name); found != sums.channel_tokens.end()) count = found->second;
      pass(count);
      if (count > 0) sums.channel_tokens[name] = count;
    }
    for (auto& layer : sums.router_load.tokens()) {
      for (auto& tokens : layer) pass(tokens);
    }
    for (auto& seconds : sums.seconds) pass(seconds);
    for (auto& seconds : sums.seconds_waited) pass(seconds);
  };
  pass_all();
  ranks.sum(row);
  takes_out = true;
  pass_all();
}

RankTimes rank_times(const StepSums& sums) {
  const auto [fastest, slowest] = std::minmax_element(sums.seconds.begin(), sums.seconds.end());
  return {static_cast<std::int64_t>(sums.seconds.size()), slowest - sums.seconds.begin(), *slowest, *fastest,
          *std::min_element(sums.seconds_waited.begin(), sums.seconds_waited.end())};
}

}  // namespace ossature
