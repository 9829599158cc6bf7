// The rows of an epoch, from which batches are cut: which samples, packed how, in which order. Internal to data/.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/batches/packing.h"
#include "data/batches/sampler.h"

namespace ossature {

/// How rows are made; as in LoaderOptions.
struct RowOptions {
  std::int64_t sequence_length = 4096;
  bool packing = true;
  bool shuffle = true;
  std::uint64_t seed = 0;
};

/// Memory: 8 bytes for each time that the epoch sees a sample, and 8 a row. The samples of all files are numbered one
/// file after another.
class EpochPlan {
 public:
  /// Throws DataError naming the first sample that is longer than a row, or a file without tokens.
  EpochPlan(std::vector<WeightedFile> files, const RowOptions& options);

  /// Makes the rows of `epoch`, in place of those that were there.
  void make(std::int64_t epoch);
  /// -1 before the first.
  [[nodiscard]] std::int64_t epoch() const { return epoch_; }
  [[nodiscard]] std::int64_t num_rows() const;
  /// Appends the samples of a row.
  void append_row(std::int64_t row, std::vector<std::int32_t>& samples) const;

  /// Without making its rows.
  [[nodiscard]] EpochSize size_of(std::int64_t epoch) const;
  /// Whether every epoch has the same size.
  [[nodiscard]] bool is_even() const;

  [[nodiscard]] const std::vector<WeightedFile>& files() const { return files_; }
  /// The file of a sample and its number there.
  struct Place {
    std::size_t file;
    std::int64_t sample;
  };
  [[nodiscard]] Place place(std::int32_t sample) const;

 private:
  /// Calls visit(sample, length, times) for each sample that has tokens and is seen.
  template <class Visit>
  void for_each(std::int64_t epoch, const Visit& visit) const;
  /// counts[l]: samples of length l.
  [[nodiscard]] std::vector<std::int64_t> count_lengths(std::int64_t epoch) const;
  void make_packed(std::int64_t epoch, SplitMix64& generator);

  std::vector<WeightedFile> files_;
  RowOptions options_;
  std::vector<std::int64_t> first_sample_;     // of each file, and the end
  std::vector<std::int64_t> num_with_tokens_;  // samples of each file
  std::int64_t epoch_ = -1;
  std::vector<std::int32_t> samples_;  // packed: by falling length; else in the order of the rows
  PackedRows rows_;
  std::vector<std::int32_t> row_order_;
};

}  // namespace ossature
