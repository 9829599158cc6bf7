// Fills rows of a fixed number of tokens with whole samples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ossature {

/// Samples that share a row.
using Pack = std::vector<std::int64_t>;

/// Best-fit decreasing: longest samples first, each into the fullest row that still has room for it. No sample is
/// split, each appears once. `samples` are indices into `lengths`; among equal lengths their order counts, the number
/// of packs does not depend on it. Every length must be in 1 .. capacity.
[[nodiscard]] std::vector<Pack> pack_samples(std::span<const std::int64_t> samples,
                                             std::span<const std::int64_t> lengths, std::int64_t capacity);

}  // namespace ossature
