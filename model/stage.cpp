#include "model/stage.h"

#include <algorithm>
#include <cmath>

namespace ossature {

Stage stage_of(const ModelConfig& config, std::int64_t count, std::int64_t index) {
  const std::int64_t layers = config.num_hidden_layers;
  const double layer =
      2.0 * static_cast<double>(config.hidden_size * (config.query_size() + config.key_value_size())) +
      3.0 * static_cast<double>(config.hidden_size * config.intermediate_size * config.num_experts_per_tok);
  const double head = static_cast<double>(config.hidden_size * config.vocab_size) / layer;  // in layers
  const double share = (static_cast<double>(layers) + head) / static_cast<double>(count);
  const auto begin_of = [&](std::int64_t i) {
    if (i == count) return layers;
    return std::clamp<std::int64_t>(std::llround(share * static_cast<double>(i)), i, layers - (count - i));
  };
  return {begin_of(index), begin_of(index + 1), index == 0, index + 1 == count, nullptr};
}

}  // namespace ossature
