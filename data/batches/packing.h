// Fills rows of a fixed number of tokens with whole samples, by best-fit decreasing: longest samples first, each into
// the fullest row that still has room for it. Which sample of a length goes where does not matter to it, so it works on
// the number of samples of each length: 10 million of them take a second.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ossature {

/// Rows as chains. The samples are numbered by falling length: 0 is one of the longest.
struct PackedRows {
  std::vector<std::int32_t> last;    // [rows] the sample put into the row last
  std::vector<std::int32_t> before;  // [samples] the one put into its row before it; -1: it was the first
};

/// `counts[l]`: samples of length l, for l from 0 to the capacity of a row, counts.size() - 1. There must be none of
/// length 0, and fewer than 2^31 in all.
[[nodiscard]] PackedRows pack_rows(std::span<const std::int64_t> counts);

/// The number of rows that pack_rows makes, without making them.
[[nodiscard]] std::int64_t count_rows(std::span<const std::int64_t> counts);

}  // namespace ossature
