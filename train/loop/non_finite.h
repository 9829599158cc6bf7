// Where a loss or a gradient that is not a finite number comes from: the step's micro-batches run again, one by one.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>

#include "data/batches/batch.h"
#include "model/network/backpropagation.h"
#include "model/network/parameters.h"
#include "train/ranks/ranks.h"
#include "train/run/training_files.h"

namespace ossature {

struct NonFinite {
  /// The first that was not finite, in the order of computation: "the embedding of the tokens", "the output of layer
  /// 3", "the loss", or "the gradient of NAME".
  std::string tensor;
  std::size_t micro_batch = 0;
};

/// The culprit among `micro_batches` (with their dropout seeds); nullopt if none is wrong by itself. The gradients hold
/// nothing of use afterwards and are zero.
[[nodiscard]] std::optional<NonFinite> find_non_finite(const Transformer& transformer, ParameterSet& parameters,
                                                       std::span<const TokenRows> micro_batches,
                                                       const BackpropagationOptions& options);

/// A culprit and where it comes from, for the user.
struct Culprit {
  std::int64_t number = 0;  // of the micro-batch among those of all ranks, in the order in which one rank computes them
  std::string tensor;
  std::string samples;
};
/// Behind every micro-batch: of what belongs to none.
inline constexpr std::int64_t kNoMicroBatch = std::numeric_limits<std::int64_t>::max();

/// The one of the lowest number among what the ranks have found; at least one has. Collective.
[[nodiscard]] Culprit first_culprit(Ranks& ranks, const std::optional<Culprit>& own);

/// "chats.jsonl:12, chats.jsonl:40": where the samples of `batch` come from, as their token files know it; a few of
/// many.
[[nodiscard]] std::string sources_of(const Batch& batch, const std::vector<WeightedFile>& files);

}  // namespace ossature
