// A matrix written down by columns, a tile at a time, so that both sides stay in the cache. On the calling thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ossature {

/// to[j * to_stride + i] = from[i * from_stride + j] for all `rows` i and `columns` j.
template <typename T>
void transpose(const T* from, std::int64_t rows, std::int64_t columns, std::int64_t from_stride, T* to,
               std::int64_t to_stride) {
  constexpr std::int64_t kTile = 16;
  for (std::int64_t r = 0; r < rows; r += kTile) {
    for (std::int64_t c = 0; c < columns; c += kTile) {
      const auto last_row = std::min(rows, r + kTile), last_column = std::min(columns, c + kTile);
      for (auto j = c; j < last_column; ++j) {
        for (auto i = r; i < last_row; ++i) to[j * to_stride + i] = from[i * from_stride + j];
      }
    }
  }
}

/// The same of matrices without gaps: from [rows, columns], to [columns, rows].
template <typename T>
void transpose(const T* from, std::int64_t rows, std::int64_t columns, T* to) {
  transpose(from, rows, columns, columns, to, rows);
}

}  // namespace ossature
