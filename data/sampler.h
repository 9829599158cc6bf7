// The order of samples in an epoch: a function of seed and epoch alone, so a run can resume anywhere.
#pragma once

#include <cstdint>
#include <vector>

namespace ossature {

/// A permutation of 0 .. count - 1 that differs from epoch to epoch (Fisher-Yates with SplitMix64), the same on every
/// machine.
[[nodiscard]] std::vector<std::int64_t> shuffled_order(std::int64_t count, std::uint64_t seed, std::int64_t epoch);

}  // namespace ossature
