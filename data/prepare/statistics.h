// What a set of samples holds: counted while it is prepared, and again when a token file is inspected.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "data/harmony/segments.h"

namespace ossature {

/// Counts of one kind of segment.
struct SegmentCounts {
  std::int64_t segments = 0;
  std::int64_t tokens = 0;   // headers and markup included
  std::int64_t learned = 0;  // tokens whose loss weight is above 0
  double weight = 0.0;       // sum of loss weights
};

/// How many samples have which length, in 10 KB whatever their number: each power of two is cut into 32 buckets, so a
/// length is known to 3 % (exactly up to 63).
class LengthHistogram {
 public:
  void add(std::int64_t length);
  void merge(const LengthHistogram& other);
  /// Lengths of at least `from` and below `to`, both powers of two or 0.
  [[nodiscard]] std::int64_t count(std::int64_t from, std::int64_t to) const;
  /// The length that a share `q` of the samples does not exceed: q = 0.5 is the median. 0 without samples.
  [[nodiscard]] std::int64_t quantile(double q) const;

 private:
  static constexpr std::int64_t kPerOctave = 32;
  static constexpr std::size_t kBuckets = 59 * kPerOctave;
  [[nodiscard]] static std::size_t bucket(std::int64_t length);
  [[nodiscard]] static std::int64_t first_length(std::size_t bucket);

  std::array<std::int64_t, kBuckets> buckets_{};
};

/// Sums over samples. Memory does not grow with them; parts counted apart can be merged, in any order but for the
/// rounding of `weight`.
class TokenStatistics {
 public:
  explicit TokenStatistics(HarmonyTokens harmony);

  /// Counts a sample; both spans have its length.
  void add(std::span<const std::int32_t> tokens, std::span<const float> loss_weights);
  /// Adds what `other` has counted.
  void merge(const TokenStatistics& other);

  [[nodiscard]] std::int64_t samples() const { return samples_; }
  [[nodiscard]] std::int64_t samples_without_learned() const { return samples_without_learned_; }
  [[nodiscard]] std::int64_t longest() const { return longest_; }
  [[nodiscard]] const LengthHistogram& lengths() const { return lengths_; }
  /// Of one kind. All tokens are plain text where the tokens of harmony are not known.
  [[nodiscard]] const SegmentCounts& of(SegmentKind kind) const { return kinds_[static_cast<std::size_t>(kind)]; }
  /// Of all kinds together.
  [[nodiscard]] SegmentCounts total() const;
  [[nodiscard]] const HarmonyTokens& harmony() const { return harmony_; }

 private:
  HarmonyTokens harmony_;
  std::int64_t samples_ = 0, samples_without_learned_ = 0, longest_ = 0;
  std::array<SegmentCounts, kNumSegmentKinds> kinds_{};
  LengthHistogram lengths_;
};

}  // namespace ossature
