#include "train/evaluation/evaluate.h"

#include <cmath>

#include <ATen/ATen.h>

#include "data/batches/sequential_reader.h"

namespace ossature {

TokenRows rows_of(const Batch& batch) {
  return {batch.tokens, batch.loss_weights, batch.sample_offsets, 0};
}

LossSum evaluate(const Transformer& transformer, const std::shared_ptr<const TokenFileReader>& file,
                 std::int64_t max_tokens, bool experts_on_grid, const std::function<void(std::int64_t)>& progress,
                 Share share, const Stage* stage, const std::function<void(std::int64_t)>& before_batch) {
  LossSum sum;
  std::int64_t done = 0;
  SequentialReader reader(file, max_tokens);
  for (std::int64_t number = 0; const auto batch = reader.next(); ++number) {
    if (before_batch) before_batch(number);
    if (number % share.of != share.first) continue;
    const LossSum part = evaluate(transformer, rows_of(*batch), experts_on_grid, stage);
    sum.loss += part.loss;
    sum.weight += part.weight;
    sum.num_learned += part.num_learned;
    done += static_cast<std::int64_t>(batch->tokens.size());
    if (progress) progress(done);
  }
  return sum;
}

std::vector<float> log_probs(const Transformer& transformer, const std::shared_ptr<const TokenFileReader>& file,
                             std::int64_t max_tokens, LossSum& loss,
                             const std::function<void(std::int64_t)>& progress) {
  std::vector<float> all;
  all.reserve(static_cast<std::size_t>(file->num_tokens()));
  loss = {};
  SequentialReader reader(file, max_tokens);
  while (const auto batch = reader.next()) {
    const at::Tensor found = log_probs(transformer, rows_of(*batch));
    const float* values = found.const_data_ptr<float>();
    for (std::size_t t = 0; t < batch->tokens.size(); ++t) {
      all.push_back(values[t]);
      if (batch->loss_weights[t] == 0.0f || std::isnan(values[t])) continue;
      loss.loss -= static_cast<double>(values[t]) * batch->loss_weights[t];
      loss.weight += batch->loss_weights[t];
      ++loss.num_learned;
    }
    if (progress) progress(static_cast<std::int64_t>(all.size()));
  }
  return all;
}

}  // namespace ossature
