// Batches from a token file: for training endless, shuffled and packed, read ahead by a thread; for evaluation once, in
// order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "data/batch.h"
#include "data/token_file.h"

namespace ossature {

struct LoaderOptions {
  std::int64_t sequence_length = 4096;  // tokens of a row; a longer sample is an error
  bool packing = true;                  // fill rows with several samples
  bool shuffle = true;
  std::uint64_t seed = 0;
  std::int64_t micro_batch_size = 1;  // rows a batch; without packing a row is one sample
};

/// A place between two batches.
struct LoaderPosition {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;  // batches of that epoch that have been given

  bool operator==(const LoaderPosition&) const = default;
};

/// Reads ahead a few batches on a thread of its own, so memory is bounded by those. Samples of no tokens are left out.
class Loader {
 public:
  /// Throws DataError naming the first sample that is longer than sequence_length, or if there is no sample at all.
  Loader(std::shared_ptr<const TokenFileReader> file, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The same for every epoch.
  [[nodiscard]] std::int64_t batches_in_epoch() const;
  /// Share of the rows' tokens that hold samples, 0 to 1.
  [[nodiscard]] double packing_efficiency() const;

  /// The next batch; after the last of an epoch comes the first of the next. Throws what reading threw (DataError).
  [[nodiscard]] Batch next();
  [[nodiscard]] LoaderPosition position() const;
  /// Goes on from `position`, exactly as a loader that had come there by itself.
  void seek(LoaderPosition position);

 private:
  class Thread;
  std::unique_ptr<Thread> thread_;
};

/// All samples once, in the order of the file, in batches of whole samples that have up to `max_tokens` tokens (or one
/// longer sample).
class SequentialReader {
 public:
  SequentialReader(std::shared_ptr<const TokenFileReader> file, std::int64_t max_tokens);
  /// nullopt at the end.
  [[nodiscard]] std::optional<Batch> next();

 private:
  std::shared_ptr<const TokenFileReader> file_;
  std::int64_t max_tokens_;
  std::int64_t sample_ = 0;
};

}  // namespace ossature
