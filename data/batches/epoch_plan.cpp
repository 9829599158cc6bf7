#include "data/batches/epoch_plan.h"

#include <algorithm>
#include <numeric>

namespace ossature {

EpochPlan::EpochPlan(std::vector<WeightedFile> files, const RowOptions& options)
    : files_(std::move(files)), options_(options) {
  first_sample_.push_back(0);
  for (const auto& [file, weight] : files_) {
    const auto offsets = file->sample_offsets();
    std::int64_t with_tokens = 0;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const std::int64_t length = offsets[s + 1] - offsets[s];
      with_tokens += length > 0 ? 1 : 0;
      if (length <= options.sequence_length) continue;
      throw DataError(file->path().string() + ": " + file->sample_source(static_cast<std::int64_t>(s)) + " has " +
                      std::to_string(length) + " tokens, data.sequence_length is " +
                      std::to_string(options.sequence_length) + "; raise it, or prepare the data with shorter samples");
    }
    if (with_tokens == 0)
      throw DataError(file->path().string() + ": holds no token; prepare it from files that have some");
    num_with_tokens_.push_back(with_tokens);
    first_sample_.push_back(first_sample_.back() + file->num_samples());
  }
  double most = 0;
  for (std::size_t f = 0; f < files_.size(); ++f) most += static_cast<double>(num_with_tokens_[f]) * files_[f].weight;
  constexpr double kMost = 2147483647.0;
  if (first_sample_.back() > INT32_MAX || most >= kMost) {
    throw DataError(
        files_.front().file->path().string() +
        ": an epoch has more than 2,147,483,647 samples; give the files smaller weights, or longer samples");
  }
}

template <class Visit>
void EpochPlan::for_each(std::int64_t epoch, const Visit& visit) const {
  for (std::size_t f = 0; f < files_.size(); ++f) {
    const std::uint64_t order_seed = SplitMix64(~options_.seed, static_cast<std::int64_t>(f)).next();
    const Draw draw(num_with_tokens_[f], files_[f].weight, epoch, options_.shuffle ? &order_seed : nullptr);
    const auto offsets = files_[f].file->sample_offsets();
    std::int64_t with_tokens = 0;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const std::int64_t length = offsets[s + 1] - offsets[s];
      if (length == 0) continue;
      const std::int64_t times = draw.times(with_tokens++);
      if (times > 0) visit(static_cast<std::int32_t>(first_sample_[f] + static_cast<std::int64_t>(s)), length, times);
    }
  }
}

std::vector<std::int64_t> EpochPlan::count_lengths(std::int64_t epoch) const {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(options_.sequence_length) + 1);
  for_each(epoch, [&](std::int32_t /*sample*/, std::int64_t length, std::int64_t times) {
    counts[static_cast<std::size_t>(length)] += times;
  });
  return counts;
}

EpochSize EpochPlan::size_of(std::int64_t epoch) const {
  const std::vector<std::int64_t> counts = count_lengths(epoch);
  EpochSize size;
  for (std::size_t length = 0; length < counts.size(); ++length) {
    size.samples += counts[length];
    size.tokens += counts[length] * static_cast<std::int64_t>(length);
  }
  size.rows = options_.packing ? count_rows(counts) : size.samples;
  return size;
}

bool EpochPlan::is_even() const {
  for (std::size_t f = 0; f < files_.size(); ++f) {
    if (!Draw::is_even(num_with_tokens_[f], files_[f].weight)) return false;
  }
  return true;
}

void EpochPlan::make(std::int64_t epoch) {
  epoch_ = -1;
  samples_.clear();
  rows_ = PackedRows();  // what it held goes before the next is made
  row_order_.clear();
  SplitMix64 generator(options_.seed, epoch);
  if (options_.packing) {
    make_packed(epoch, generator);
  } else {
    for_each(epoch, [&](std::int32_t sample, std::int64_t /*length*/, std::int64_t times) {
      samples_.insert(samples_.end(), static_cast<std::size_t>(times), sample);
    });
    if (options_.shuffle) shuffle(samples_, generator);
  }
  epoch_ = epoch;
}

void EpochPlan::make_packed(std::int64_t epoch, SplitMix64& generator) {
  const std::vector<std::int64_t> counts = count_lengths(epoch);
  // Sorted by falling length; among equals by chance.
  std::vector<std::int64_t> next(counts.size() + 1);
  for (std::size_t length = counts.size(); length-- > 1;) next[length - 1] = next[length] + counts[length];
  samples_.resize(static_cast<std::size_t>(next[0]));
  for_each(epoch, [&](std::int32_t sample, std::int64_t length, std::int64_t times) {
    auto& place = next[static_cast<std::size_t>(length)];
    std::fill_n(samples_.begin() + place, times, sample);
    place += times;
  });
  if (options_.shuffle) {
    auto group = samples_.begin();
    for (std::size_t length = counts.size(); length-- > 1; group += counts[length]) {
      shuffle({group, group + counts[length]}, generator);
    }
  }
  rows_ = pack_rows(counts);
  row_order_.resize(rows_.last.size());
  std::iota(row_order_.begin(), row_order_.end(), 0);
  if (options_.shuffle) {
    shuffle(row_order_, generator);
    return;
  }
  std::vector<std::int32_t> first(rows_.last.size()), samples;  // of each row
  for (std::size_t row = 0; row < first.size(); ++row) {
    samples.clear();
    append_row(static_cast<std::int64_t>(row), samples);
    first[row] = samples.front();
  }
  std::sort(row_order_.begin(), row_order_.end(), [&](std::int32_t a, std::int32_t b) {
    return std::pair(first[static_cast<std::size_t>(a)], a) < std::pair(first[static_cast<std::size_t>(b)], b);
  });
}

std::int64_t EpochPlan::num_rows() const {
  return static_cast<std::int64_t>(options_.packing ? row_order_.size() : samples_.size());
}

void EpochPlan::append_row(std::int64_t row, std::vector<std::int32_t>& samples) const {
  const auto r = static_cast<std::size_t>(row);
  if (!options_.packing) {
    samples.push_back(samples_[r]);
    return;
  }
  const auto before = static_cast<std::ptrdiff_t>(samples.size());
  for (std::int32_t i = rows_.last[static_cast<std::size_t>(row_order_[r])]; i >= 0;
       i = rows_.before[static_cast<std::size_t>(i)]) {
    samples.push_back(samples_[static_cast<std::size_t>(i)]);
  }
  std::sort(samples.begin() + before, samples.end());  // as they lie in the files
}

EpochPlan::Place EpochPlan::place(std::int32_t sample) const {
  const auto file = std::upper_bound(first_sample_.begin(), first_sample_.end(), sample) - first_sample_.begin() - 1;
  return {static_cast<std::size_t>(file), sample - first_sample_[static_cast<std::size_t>(file)]};
}

}  // namespace ossature
