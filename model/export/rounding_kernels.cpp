#include "model/export/rounding_kernels.h"

#include <bit>

#include "model/export/bfloat16_neighbours.h"
#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

using namespace vector_math;

constexpr std::int64_t kRows = kRoundedRows;
constexpr std::int64_t kLanes = 16;  // values that are looked at together

/// The E2M1 value nearest to x, ties to the even code, beyond 6 to 6: adding 1.5 * 2^23 steps to a number leaves a
/// whole number of steps, and the step is half of the number's binade, but at least 0.5.
OSSATURE_INLINE float snap(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const float size = std::bit_cast<float>(bits & 0x7fffffffu);
  const float kept = size < 6.0f ? size : 6.0f;
  const float normal = kept > 1.0f ? kept : 1.0f;
  const float shift = std::bit_cast<float>(std::bit_cast<std::uint32_t>(normal) & 0x7f800000u) * 6291456.0f;
  const float value = (kept + shift) - shift;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | (bits & 0x80000000u));
}

/// Of the two values of bfloat16 next to `wanted` the nearer to x; `wanted` itself where it is one.
OSSATURE_INLINE float nearer_neighbour(float wanted, float x) {
  const auto [lower, upper] = bfloat16_neighbours(wanted);
  const float below = std::bit_cast<float>(lower), above = std::bit_cast<float>(upper);
  const float to_below = x - below, to_above = x - above;
  return to_above * to_above < to_below * to_below ? above : below;
}

/// The value of the grid for `x`: of row `r` in the `k`th of some columns, whose target is `target`.
OSSATURE_INLINE float on_grid(const CodesByColumn& grid, std::int64_t k, std::int64_t r, float /*target*/, float x) {
  return snap(x / grid.scales[k][r]) * grid.scales[k][r];
}
OSSATURE_INLINE float on_grid(const NeighboursByColumn& /*grid*/, std::int64_t /*k*/, std::int64_t /*r*/, float target,
                              float x) {
  return nearer_neighbour(target, x);
}
/// And in column `j` of a row.
OSSATURE_INLINE float on_grid(const CodesOfRow& grid, std::int64_t j, float x) {
  return snap(x * grid.inverse_scale[j]) * grid.scale[j];
}
OSSATURE_INLINE float on_grid(const NeighboursOfRow& grid, std::int64_t j, float x) {
  return nearer_neighbour(grid.wanted[j], x);
}

template <typename Grid>
OSSATURE_INLINE void round_columns(std::int64_t width, const float* factor, std::int64_t stride, const Grid& grid,
                                   float* feedback, float* target, float* error, float* residual) {
  for (std::int64_t k = 0; k < width; ++k) {
    float* sum = feedback + k * kRows;
    for (std::int64_t j = 0; j < k; ++j) {
      const float weight = factor[j * stride + k];
      const float* from = error + j * kRows;
#pragma omp simd
      for (std::int64_t r = 0; r < kRows; ++r) sum[r] += weight * from[r];
    }
    float *x = target + k * kRows, *e = error + k * kRows, *left = residual + k * kRows;
#pragma omp simd
    for (std::int64_t r = 0; r < kRows; ++r) {
      const float wanted = x[r] + sum[r];
      const float q = on_grid(grid, k, r, x[r], wanted);
      e[r] = x[r] - q;
      left[r] = wanted - q;
      x[r] = q;
    }
  }
}

OSSATURE_INLINE void add_costs(std::int64_t columns, float beyond, const float* pivots, const float* delta_m,
                               const float* delta_h, const float* error, const float* residual, float* squares,
                               float* along) {
  for (std::int64_t k = 0; k < columns; ++k) {
    const std::int64_t at = k * kRows;
    const float pivot = pivots[k];
#pragma omp simd
    for (std::int64_t r = 0; r < kRows; ++r) {
      const float left = beyond * delta_m[at + r] - residual[at + r];
      squares[r] += pivot * left * left;
      along[r] -= error[at + r] * delta_h[at + r];
    }
  }
}

OSSATURE_INLINE void take_rows(std::int64_t columns, const std::uint32_t* take, const float* from, float* to) {
  for (std::int64_t k = 0; k < columns; ++k) {
#pragma omp simd
    for (std::int64_t r = 0; r < kRows; ++r) {
      const std::int64_t at = k * kRows + r;
      to[at] = std::bit_cast<float>((std::bit_cast<std::uint32_t>(from[at]) & take[r]) |
                                    (std::bit_cast<std::uint32_t>(to[at]) & ~take[r]));
    }
  }
}

template <typename Grid>
OSSATURE_INLINE std::int64_t sweep(Descent& row, const Grid& grid) {
  std::int64_t moved = 0;
  for (std::int64_t first = 0; first < row.size; first += kLanes) {
    std::int64_t from = 0;
    while (from < kLanes) {
      const float pull = row.boost * static_cast<float>(row.along);
      alignas(64) float steps[kLanes];
      unsigned any = 0;
#pragma omp simd reduction(| : any)
      for (std::int64_t i = 0; i < kLanes; ++i) {
        const std::int64_t j = first + i;
        const float q = row.rounded[j];
        const float t = q - (row.gradient[j] + pull * row.direction[j]) * row.curvature[j];
        steps[i] = on_grid(grid, j, t) - q;
        any |= steps[i] != 0.0f ? 1u : 0u;
      }
      if (any == 0) break;
      while (from < kLanes && steps[from] == 0.0f) ++from;
      if (from == kLanes) break;
      const std::int64_t j = first + from;
      const float step = steps[from];
      const float* column = row.hessian + j * row.size;
#pragma omp simd
      for (std::int64_t k = 0; k < row.size; ++k) row.gradient[k] += step * column[k];
      row.along += static_cast<double>(step) * row.direction[j];
      row.rounded[j] += step;
      ++moved;
      ++from;
    }
  }
  return moved;
}

#define OSSATURE_KERNELS_OF_GRID(NAME, GRID, SUFFIX, TARGET)                                                    \
  TARGET void round_##NAME##_##SUFFIX(std::int64_t width, const float* factor, std::int64_t stride,             \
                                      const GRID##ByColumn& grid, float* feedback, float* target, float* error, \
                                      float* residual) {                                                        \
    round_columns(width, factor, stride, grid, feedback, target, error, residual);                              \
  }                                                                                                             \
  TARGET std::int64_t descend_##NAME##_##SUFFIX(Descent& row, const GRID##OfRow& grid) {                        \
    return sweep(row, grid);                                                                                    \
  }
#define OSSATURE_KERNELS(SUFFIX, TARGET)                                                                     \
  OSSATURE_KERNELS_OF_GRID(codes, Codes, SUFFIX, TARGET)                                                     \
  OSSATURE_KERNELS_OF_GRID(neighbours, Neighbours, SUFFIX, TARGET)                                           \
  TARGET void add_##SUFFIX(std::int64_t columns, float beyond, const float* pivots, const float* delta_m,    \
                           const float* delta_h, const float* error, const float* residual, float* squares,  \
                           float* along) {                                                                   \
    add_costs(columns, beyond, pivots, delta_m, delta_h, error, residual, squares, along);                   \
  }                                                                                                          \
  TARGET void take_##SUFFIX(std::int64_t columns, const std::uint32_t* take, const float* from, float* to) { \
    take_rows(columns, take, from, to);                                                                      \
  }                                                                                                          \
  constexpr RoundingKernels kernels_##SUFFIX = {round_codes_##SUFFIX,   round_neighbours_##SUFFIX,           \
                                                add_##SUFFIX,           take_##SUFFIX,                       \
                                                descend_codes_##SUFFIX, descend_neighbours_##SUFFIX};

OSSATURE_KERNELS(wide, OSSATURE_WIDE)
OSSATURE_KERNELS(avx2, OSSATURE_AVX2)
OSSATURE_KERNELS(plain, [[gnu::noinline]])
#undef OSSATURE_KERNELS
#undef OSSATURE_KERNELS_OF_GRID

}  // namespace

const RoundingKernels& rounding_kernels() {
  static const RoundingKernels* const chosen = fastest(&kernels_wide, &kernels_avx2, &kernels_plain);
  return *chosen;
}

}  // namespace ossature
