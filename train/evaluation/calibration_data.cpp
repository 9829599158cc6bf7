#include "train/evaluation/calibration_data.h"

#include <algorithm>
#include <numeric>

#include "data/data_error.h"

namespace ossature {
namespace {

struct Sample {
  std::size_t file;
  std::int64_t first, length;  // tokens in the file
};

std::vector<Sample> samples_of(const std::vector<std::shared_ptr<const TokenFileReader>>& files) {
  std::vector<Sample> samples;
  for (std::size_t file = 0; file < files.size(); ++file) {
    const auto offsets = files[file]->sample_offsets();
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const auto length = std::min(offsets[s + 1] - offsets[s], kCalibrationBatchTokens);
      if (length > 0) samples.push_back({file, offsets[s], length});
    }
  }
  return samples;
}

/// 0, 1, ..., in an order each beginning of which is spread evenly: multiples of the golden section, modulo the whole.
std::vector<std::size_t> spread(std::size_t number) {
  std::size_t step =
      std::max<std::size_t>(1, static_cast<std::size_t>(0.6180339887498949 * static_cast<double>(number)));
  while (std::gcd(step, number) != 1) ++step;
  std::vector<std::size_t> order(number);
  for (std::size_t i = 1; i < number; ++i) order[i] = (order[i - 1] + step) % number;
  return order;
}

}  // namespace

std::vector<Batch> calibration_batches(const std::vector<std::shared_ptr<const TokenFileReader>>& files,
                                       std::int64_t max_tokens) {
  const std::vector<Sample> samples = samples_of(files);
  if (samples.empty()) {
    throw DataError(files.front()->path().string() +
                    ": it holds no token; calibration needs samples of what the model was trained for");
  }
  std::vector<std::size_t> chosen;
  std::int64_t left = max_tokens;
  for (const std::size_t i : spread(samples.size())) {
    if (left <= 0) break;
    chosen.push_back(i);
    left -= samples[i].length;
  }
  std::sort(chosen.begin(), chosen.end());
  std::vector<Batch> batches;
  for (const std::size_t i : chosen) {
    const Sample& sample = samples[i];
    const auto held = batches.empty() ? kCalibrationBatchTokens : batches.back().sample_offsets.back();
    if (held + sample.length > kCalibrationBatchTokens) batches.push_back({{}, {}, {0}, {}, {}});
    Batch& batch = batches.back();
    const auto first = batch.tokens.size();
    batch.tokens.resize(first + static_cast<std::size_t>(sample.length));
    files[sample.file]->read_tokens(sample.first, std::span(batch.tokens).subspan(first));
    batch.loss_weights.resize(batch.tokens.size());
    files[sample.file]->read_loss_weights(sample.first, std::span(batch.loss_weights).subspan(first));
    batch.sample_offsets.push_back(static_cast<std::int64_t>(batch.tokens.size()));
  }
  return batches;
}

}  // namespace ossature
