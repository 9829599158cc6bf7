#include "data/batches/sampler.h"

#include <cmath>
#include <numeric>
#include <utility>

namespace ossature {
namespace {

/// Where the epoch begins in the endless round.
std::int64_t beginning(std::int64_t count, double weight, std::int64_t epoch) {
  return std::llround(static_cast<double>(epoch) * weight * static_cast<double>(count));
}

}  // namespace

SplitMix64::SplitMix64(std::uint64_t seed, std::int64_t epoch)
    : state_(SplitMix64(SplitMix64(seed).next() ^ static_cast<std::uint64_t>(epoch)).next()) {}

std::uint64_t SplitMix64::next() {
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::uint64_t SplitMix64::below(std::uint64_t bound) {
  const std::uint64_t limit = UINT64_MAX - UINT64_MAX % bound;  // draws that would favour small ones are drawn again
  std::uint64_t value = next();
  while (value >= limit) value = next();
  return value % bound;
}

void shuffle(std::span<std::int32_t> values, SplitMix64& generator) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[generator.below(i)]);
}

Draw::Draw(std::int64_t count, double weight, std::int64_t epoch, const std::uint64_t* order_seed)
    : count_(count), from_(beginning(count, weight, epoch)), to_(beginning(count, weight, epoch + 1)) {
  if (order_seed == nullptr || count == 0 || (to_ - from_) % count == 0) return;
  position_.resize(static_cast<std::size_t>(count));
  std::iota(position_.begin(), position_.end(), 0);
  SplitMix64 generator(*order_seed);
  shuffle(position_, generator);
}

std::int64_t Draw::times(std::int64_t i) const {
  const std::int64_t position = position_.empty() ? i : position_[static_cast<std::size_t>(i)];
  // Rounds that have come to the position before `end`: those k with position + k count < end.
  const auto rounds_before = [&](std::int64_t end) { return end <= position ? 0 : (end - position - 1) / count_ + 1; };
  return rounds_before(to_) - rounds_before(from_);
}

bool Draw::is_even(std::int64_t count, double weight) {
  return weight == std::floor(weight) && beginning(count, weight, 1) == count * static_cast<std::int64_t>(weight);
}

}  // namespace ossature
