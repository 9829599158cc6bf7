// Where a loss or a gradient that is not a finite number comes from: the step's micro-batches run again, one by one.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/batch.h"
#include "model/backpropagation.h"
#include "model/parameters.h"
#include "train/training_files.h"

namespace ossature {

struct NonFinite {
  /// The first that was not finite, in the order of computation: "the embedding of the tokens", "the output of layer
  /// 3", "the loss", or "the gradient of NAME".
  std::string tensor;
  std::size_t micro_batch = 0;
};

/// The culprit of a step over `micro_batches` (with their dropout seeds). The gradients hold nothing of use afterwards
/// and are zero. Where no micro-batch is wrong by itself, only their sum, that is "the sum of the gradients".
[[nodiscard]] NonFinite find_non_finite(const Transformer& transformer, ParameterSet& parameters,
                                        std::span<const TokenRows> micro_batches,
                                        const BackpropagationOptions& options);

/// "chats.jsonl:12, chats.jsonl:40": where the samples of `batch` come from, as their token files know it; a few of
/// many.
[[nodiscard]] std::string sources_of(const Batch& batch, const std::vector<WeightedFile>& files);

}  // namespace ossature
