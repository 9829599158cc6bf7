#include "model/kernels/widened_product.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "model/kernels/bf16_tiles.h"
#include "model/kernels/vector_math.h"

namespace ossature::tiles {
namespace {

using vector_math::load;

/// Values of k in a block, and the most columns: [kDepth, kColumns] of b fill a quarter of a second-level cache of
/// 512 KiB, a register's rows of a some of the first.
constexpr std::int64_t kDepth = 256;
constexpr std::int64_t kColumns = 128;
/// Values of bfloat16 in a cache line.
constexpr std::int64_t kLineValues = 32;

/// Registers of one kind of processor: vectors of kLanes floats, kRows rows of two of which are summed at once.
template <int kLanesOf, int kRowsOf>
struct Registers {
  static constexpr int kLanes = kLanesOf, kRows = kRowsOf, kWidth = 2 * kLanesOf;
  typedef float Vector __attribute__((vector_size(kLanesOf * sizeof(float)), aligned(4), may_alias));
};
using Wide = Registers<16, 12>;
using Narrow = Registers<8, 6>;
using Plain = Registers<4, 6>;

/// sums [kRows, kWidth] (row stride `ldc`) = rows of a (kDepth apart) times b [depth, kWidth]; or added to what is
/// there.
template <typename R, int kRows>
OSSATURE_INLINE void multiply_block(const float* a, const float* b, std::int64_t depth, float* c, std::int64_t ldc,
                                    bool add) {
  using Vector = typename R::Vector;
  Vector sums[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    sums[i][0] = add ? *reinterpret_cast<const Vector*>(c + i * ldc) : Vector{};
    sums[i][1] = add ? *reinterpret_cast<const Vector*>(c + i * ldc + R::kLanes) : Vector{};
  }
  for (std::int64_t p = 0; p < depth; ++p, b += R::kWidth) {
    const Vector first = *reinterpret_cast<const Vector*>(b);
    const Vector second = *reinterpret_cast<const Vector*>(b + R::kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const float value = a[i * kDepth + p];
      sums[i][0] += value * first;
      sums[i][1] += value * second;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    *reinterpret_cast<Vector*>(c + i * ldc) = sums[i][0];
    *reinterpret_cast<Vector*>(c + i * ldc + R::kLanes) = sums[i][1];
  }
}

/// multiply_block for `rows` <= kMost rows.
template <typename R, int kMost>
OSSATURE_INLINE void multiply_rows(std::int64_t rows, const float* a, const float* b, std::int64_t depth, float* c,
                                   std::int64_t ldc, bool add) {
  if constexpr (kMost > 0) {
    if (rows == kMost) {
      multiply_block<R, kMost>(a, b, depth, c, ldc, add);
    } else {
      multiply_rows<R, kMost - 1>(rows, a, b, depth, c, ldc, add);
    }
  }
}

/// b [depth, n] in pairs order, `ldb` pairs a row, as panels [depth, kWidth], zeros past n.
template <typename R>
OSSATURE_INLINE void widen_columns(const BFloat16* b, std::int64_t ldb, std::int64_t depth, std::int64_t n,
                                   float* panels) {
  const auto* pairs = reinterpret_cast<const std::uint32_t*>(b);
  for (std::int64_t p = 0; p < depth; p += 2) {
    for (std::int64_t column = 0; column < n; column += R::kWidth) {
      const auto count = std::min<std::int64_t>(R::kWidth, n - column);
      const std::uint32_t* from = pairs + p / 2 * ldb + column;
      float* even = panels + column * kDepth + p * R::kWidth;
      float* odd = even + R::kWidth;
      if (count == R::kWidth) {
#pragma omp simd
        for (std::int64_t j = 0; j < R::kWidth; ++j) {
          even[j] = std::bit_cast<float>(from[j] << 16);
          odd[j] = std::bit_cast<float>(from[j] & 0xffff0000u);
        }
        continue;
      }
      for (std::int64_t j = 0; j < R::kWidth; ++j) {
        even[j] = j < count ? std::bit_cast<float>(from[j] << 16) : 0.0f;
        odd[j] = j < count ? std::bit_cast<float>(from[j] & 0xffff0000u) : 0.0f;
      }
    }
  }
}

template <typename R>
struct Product {
  OSSATURE_INLINE static void run(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t lda,
                                  const BFloat16* b, std::int64_t ldb, float* c, std::int64_t ldc, bool add,
                                  float* panels, float* rows) {
    for (std::int64_t column = 0; column < n; column += kColumns) {
      const auto columns = std::min(kColumns, n - column);
      for (std::int64_t first = 0; first < k; first += kDepth) {
        const auto depth = std::min(kDepth, k - first);
        const bool adds = add || first > 0;
        widen_columns<R>(b + (first / 2 * ldb + column) * 2, ldb, depth, columns, panels);
        for (std::int64_t row = 0; row < m; row += R::kRows) {
          const auto count = std::min<std::int64_t>(R::kRows, m - row);
          for (std::int64_t i = 0; i < count; ++i) {
            const BFloat16* from = a + (row + i) * lda + first;
            // Those of the next rows, which the processor does not foresee.
            for (std::int64_t p = 0; p < depth && row + i + R::kRows < m; p += kLineValues)
              __builtin_prefetch(from + R::kRows * lda + p);
            float* to = rows + i * kDepth;
#pragma omp simd
            for (std::int64_t p = 0; p < depth; ++p) to[p] = load(from[p]);
          }
          for (std::int64_t j = 0; j < columns; j += R::kWidth) {
            const float* panel = panels + j * kDepth;
            float* sums = c + row * ldc + column + j;
            const auto width = std::min<std::int64_t>(R::kWidth, columns - j);
            if (width == R::kWidth) {
              multiply_rows<R, R::kRows>(count, rows, panel, depth, sums, ldc, adds);
              continue;
            }
            float part[R::kRows * R::kWidth];
            multiply_rows<R, R::kRows>(count, rows, panel, depth, part, R::kWidth, false);
            for (std::int64_t i = 0; i < count; ++i) {
              for (std::int64_t t = 0; t < width; ++t) {
                sums[i * ldc + t] = (adds ? sums[i * ldc + t] : 0.0f) + part[i * R::kWidth + t];
              }
            }
          }
        }
      }
    }
  }
};

}  // namespace

void widened_multiply(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t lda,
                      const BFloat16* b, std::int64_t ldb, float* c, std::int64_t ldc, bool add) {
  thread_local const Buffer<float> panels(kDepth * kColumns), rows(kDepth * Wide::kRows);
  vector_math::run_fastest_of<Product<Wide>, Product<Narrow>, Product<Plain>>(m, n, k, a, lda, b, ldb, c, ldc, add,
                                                                              panels.data(), rows.data());
}

}  // namespace ossature::tiles
