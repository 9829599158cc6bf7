#include "data/batches/sequential_reader.h"

#include <utility>

namespace ossature {

SequentialReader::SequentialReader(std::shared_ptr<const TokenFileReader> file, std::int64_t max_tokens)
    : file_(std::move(file)), max_tokens_(max_tokens) {}

std::optional<Batch> SequentialReader::next() {
  const auto offsets = file_->sample_offsets();
  Batch batch;
  batch.sample_offsets.push_back(0);
  const std::int64_t first = offsets[static_cast<std::size_t>(sample_)];
  for (; sample_ < file_->num_samples(); ++sample_) {
    const std::int64_t end = offsets[static_cast<std::size_t>(sample_) + 1] - first;
    if (!batch.sample_ids.empty() && end > max_tokens_) break;
    batch.sample_offsets.push_back(end);
    batch.sample_ids.push_back(sample_);
  }
  if (batch.sample_ids.empty()) return std::nullopt;
  batch.sample_files.resize(batch.sample_ids.size());
  batch.tokens.resize(static_cast<std::size_t>(batch.sample_offsets.back()));
  batch.loss_weights.resize(batch.tokens.size());
  file_->read_tokens(first, batch.tokens);
  file_->read_loss_weights(first, batch.loss_weights);
  return batch;
}

}  // namespace ossature
