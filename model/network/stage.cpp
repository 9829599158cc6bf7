#include "model/network/stage.h"

#include <algorithm>
#include <cmath>

namespace ossature {

ActiveWeights active_weights(const ModelConfig& model) {
  const double attention = 2.0 * static_cast<double>(model.hidden_size * (model.query_size() + model.key_value_size()));
  const double experts =
      3.0 * static_cast<double>(model.hidden_size * model.intermediate_size * model.num_experts_per_tok);
  const double router = static_cast<double>(model.hidden_size * model.num_local_experts);
  return {attention + experts + router, static_cast<double>(model.hidden_size * model.vocab_size)};
}

Stage stage_of(const ModelConfig& config, std::int64_t count, std::int64_t index) {
  const std::int64_t layers = config.num_hidden_layers;
  const ActiveWeights weights = active_weights(config);
  const double head = weights.head / weights.layer;  // in layers
  const double share = (static_cast<double>(layers) + head) / static_cast<double>(count);
  const auto begin_of = [&](std::int64_t i) {
    if (i == count) return layers;
    return std::clamp<std::int64_t>(std::llround(share * static_cast<double>(i)), i, layers - (count - i));
  };
  return {begin_of(index), begin_of(index + 1), index == 0, index + 1 == count, nullptr};
}

}  // namespace ossature
