// Loss and log-probabilities of a token file under a model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/batches/batch.h"
#include "data/token_file/token_file.h"
#include "model/network/backpropagation.h"

namespace ossature {

/// A batch as the model takes it. Views: `batch` must live longer.
[[nodiscard]] TokenRows rows_of(const Batch& batch);

/// Every `of`-th batch of something, beginning with number `first`; all as it stands.
struct Share {
  std::int64_t first = 0, of = 1;
};

/// Weighted loss over the learned tokens of the whole file, or a share of it, samples in order, about `max_tokens`
/// tokens at a time. `progress`, when given, hears the tokens done; `before_batch` the number of each batch, of all of
/// the file's, and may throw. In a stage as with backpropagate().
[[nodiscard]] LossSum evaluate(const Transformer& transformer, const std::shared_ptr<const TokenFileReader>& file,
                               std::int64_t max_tokens, bool experts_on_grid = false,
                               const std::function<void(std::int64_t)>& progress = {}, Share share = {},
                               const Stage* stage = nullptr,
                               const std::function<void(std::int64_t)>& before_batch = {});

/// log p(token | its sample so far) for each token of the file; NaN for the first of each sample. `loss` receives the
/// weighted loss over the learned tokens.
[[nodiscard]] std::vector<float> log_probs(const Transformer& transformer,
                                           const std::shared_ptr<const TokenFileReader>& file, std::int64_t max_tokens,
                                           LossSum& loss, const std::function<void(std::int64_t)>& progress = {});

}  // namespace ossature
