// Batches for training from token files: endless, shuffled and packed, read ahead by threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/batches/batch.h"
#include "data/batches/sampler.h"
#include "data/token_file/token_file.h"

namespace ossature {

struct LoaderOptions {
  std::int64_t sequence_length = 4096;  // tokens of a row; a longer sample is an error
  bool packing = true;                  // fill rows with several samples
  bool shuffle = true;
  std::uint64_t seed = 0;
  std::int64_t micro_batch_size = 1;  // rows a batch; without packing a row is one sample
  std::int64_t num_workers = 1;       // threads that read and decode; what is read does not depend on it
  // Of each batches_per_step batches, counted from where the loader was put on, this rank gets number `rank` and every
  // num_ranks-th after it: N ranks together see the batches that one sees. rank < num_ranks <= batches_per_step.
  std::int64_t rank = 0;
  std::int64_t num_ranks = 1;
  std::int64_t batches_per_step = 1;
};

/// A place between two batches, of all ranks.
struct LoaderPosition {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;  // batches of that epoch that have been given

  bool operator==(const LoaderPosition&) const = default;
};

/// Reads ahead a few batches on threads of its own, so memory is bounded by those and by 16 bytes a sample. Samples of
/// no tokens are left out. What batches hold and their order depend on files, weights, seed and epoch alone.
class Loader {
 public:
  /// Throws DataError naming the first sample that is longer than sequence_length, or a file without tokens.
  Loader(std::vector<WeightedFile> files, const LoaderOptions& options);
  Loader(std::shared_ptr<const TokenFileReader> file, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Of the epoch of position(). All epochs are alike unless a file's weight is a fraction.
  [[nodiscard]] EpochSize epoch_size() const;
  [[nodiscard]] std::int64_t batches_in_epoch() const;
  /// Of the first `epochs` epochs, which need not be whole ones; at least 1.
  [[nodiscard]] std::int64_t batches_in(double epochs) const;
  /// Share of the rows' tokens that hold samples, 0 to 1, in the epoch of position().
  [[nodiscard]] double packing_efficiency() const;

  /// The next batch of this rank; after the last of an epoch comes the first of the next. The last of an epoch may be
  /// smaller. Throws what reading threw (DataError), again and again until seek().
  [[nodiscard]] Batch next();
  /// Behind the batch that next() gave last.
  [[nodiscard]] LoaderPosition position() const;
  /// `batches` batches, of all ranks, behind `from`.
  [[nodiscard]] LoaderPosition advanced(LoaderPosition from, std::int64_t batches) const;
  /// Goes on from `position`, exactly as a loader that had come there by itself.
  void seek(LoaderPosition position);

 private:
  class Threads;
  std::unique_ptr<Threads> threads_;
};

}  // namespace ossature
