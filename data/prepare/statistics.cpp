#include "data/prepare/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace ossature {

std::size_t LengthHistogram::bucket(std::int64_t length) {
  const auto n = static_cast<std::uint64_t>(std::max<std::int64_t>(0, length));
  if (n < 2 * kPerOctave) return static_cast<std::size_t>(n);
  const int shift = std::bit_width(n) - 6;  // leaves six bits: 32 to 63
  return static_cast<std::size_t>(shift) * kPerOctave + static_cast<std::size_t>(n >> shift);
}

std::int64_t LengthHistogram::first_length(std::size_t bucket) {
  const auto b = static_cast<std::int64_t>(bucket);
  if (b < 2 * kPerOctave) return b;
  const std::int64_t shift = b / kPerOctave - 1;
  return (b - shift * kPerOctave) << shift;
}

void LengthHistogram::add(std::int64_t length) {
  ++buckets_[bucket(length)];
}

void LengthHistogram::merge(const LengthHistogram& other) {
  for (std::size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
}

std::int64_t LengthHistogram::count(std::int64_t from, std::int64_t to) const {
  std::int64_t sum = 0;
  for (std::size_t i = bucket(from), end = bucket(to); i < end; ++i) sum += buckets_[i];
  return sum;
}

std::int64_t LengthHistogram::quantile(double q) const {
  std::int64_t all = 0;
  for (const std::int64_t count : buckets_) all += count;
  if (all == 0) return 0;
  const auto rank =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(q * static_cast<double>(all))), 1, all);
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    sum += buckets_[i];
    if (sum >= rank) {
      const std::int64_t first = first_length(i);
      return i + 1 < kBuckets ? (first + first_length(i + 1) - 1) / 2 : first;
    }
  }
  return 0;
}

TokenStatistics::TokenStatistics(HarmonyTokens harmony) : harmony_(std::move(harmony)) {}

void TokenStatistics::add(std::span<const std::int32_t> tokens, std::span<const float> loss_weights) {
  const auto length = static_cast<std::int64_t>(tokens.size());
  std::int64_t learned_in_sample = 0;
  SegmentFinder finder(harmony_, tokens);
  for (Segment segment; finder.next(segment);) {
    std::int64_t learned = 0;
    double weight = 0.0;
    const auto size = static_cast<std::size_t>(segment.end - segment.begin);
    for (const float w : loss_weights.subspan(static_cast<std::size_t>(segment.begin), size)) {
      learned += w > 0.0f ? 1 : 0;
      weight += w;
    }
    SegmentCounts& counts = kinds_[static_cast<std::size_t>(segment.kind)];
    ++counts.segments;
    counts.tokens += segment.end - segment.begin;
    counts.learned += learned;
    counts.weight += weight;
    learned_in_sample += learned;
  }
  ++samples_;
  if (learned_in_sample == 0) ++samples_without_learned_;
  longest_ = std::max(longest_, length);
  lengths_.add(length);
}

void TokenStatistics::merge(const TokenStatistics& other) {
  samples_ += other.samples_;
  samples_without_learned_ += other.samples_without_learned_;
  longest_ = std::max(longest_, other.longest_);
  for (std::size_t i = 0; i < kNumSegmentKinds; ++i) {
    kinds_[i].segments += other.kinds_[i].segments;
    kinds_[i].tokens += other.kinds_[i].tokens;
    kinds_[i].learned += other.kinds_[i].learned;
    kinds_[i].weight += other.kinds_[i].weight;
  }
  lengths_.merge(other.lengths_);
}

SegmentCounts TokenStatistics::total() const {
  SegmentCounts sum;
  for (const SegmentCounts& counts : kinds_) {
    sum.segments += counts.segments;
    sum.tokens += counts.tokens;
    sum.learned += counts.learned;
    sum.weight += counts.weight;
  }
  return sum;
}

}  // namespace ossature
