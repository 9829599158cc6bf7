// How well each token of a batch is predicted.
#pragma once

#include <cstdint>
#include <vector>

#include "model/network/backpropagation.h"

namespace ossature {

/// Of the tokens as targets, [T] each. Without gradients.
struct TargetScores {
  std::vector<float> log_probs;       // natural log p(token | its sample so far); NaN where it was not asked for
  std::vector<std::uint8_t> is_best;  // whether no other token is more probable
};

/// Of the tokens with a loss weight, or with `all` of every token but the first of each sample.
[[nodiscard]] TargetScores score_targets(const Transformer& transformer, const TokenRows& rows, bool all);

}  // namespace ossature
