// Which samples an epoch sees, how often, and in which order: functions of seed and epoch alone, so a run can resume
// anywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/token_file/token_file.h"

namespace ossature {

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): the same on every machine.
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t state) : state_(state) {}
  /// The generator of an epoch. Mixed twice: seed and epoch must not change places.
  SplitMix64(std::uint64_t seed, std::int64_t epoch);
  std::uint64_t next();
  /// A number below `bound` without bias.
  std::uint64_t below(std::uint64_t bound);

 private:
  std::uint64_t state_;
};

/// Fisher-Yates.
void shuffle(std::span<std::int32_t> values, SplitMix64& generator);

/// A token file and how often an epoch sees each of its samples on average.
struct WeightedFile {
  std::shared_ptr<const TokenFileReader> file;
  double weight = 1.0;
};

/// What one epoch reads, on all ranks.
struct EpochSize {
  std::int64_t samples = 0;  // times that a sample is seen
  std::int64_t tokens = 0;
  std::int64_t rows = 0;
};

/// The samples that an epoch sees of `count` that are drawn with `weight`. The epochs go round and round one order of
/// the samples, each taking `weight` rounds: so each epoch sees each sample floor(weight) or ceil(weight) times, and
/// the first E epochs together floor(E weight) or ceil(E weight) times (but for what rounding count * weight takes or
/// adds).
class Draw {
 public:
  /// `order_seed`: of the order; without one it is 0 .. count - 1.
  Draw(std::int64_t count, double weight, std::int64_t epoch, const std::uint64_t* order_seed);
  /// How often sample `i` is seen.
  [[nodiscard]] std::int64_t times(std::int64_t i) const;
  /// Whether every epoch sees each sample equally often.
  [[nodiscard]] static bool is_even(std::int64_t count, double weight);

 private:
  std::int64_t count_, from_, to_;      // positions of the endless round
  std::vector<std::int32_t> position_;  // of each sample in a round; empty: its own number, or no matter
};

}  // namespace ossature
