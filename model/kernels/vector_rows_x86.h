// The kernels of vector_rows.h for AVX2 and for AVX-512, by the same names. Internal to model/.
#pragma once

#include "model/kernels/vector_rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define OSSATURE_VECTORS_AVX2 __attribute__((target("avx2,fma")))
#define OSSATURE_VECTORS_AVX512 __attribute__((target("avx512f")))

namespace ossature::vectors {

/// Asks for the cache line that comes a while after byte `offset` of a row, which lies at `data`; after the row's end
/// that is in the row which takes its place, `rows` further. The processor's own prefetching stops at the end of each
/// page of 4 KiB, which is less than a row of bfloat16.
inline void prefetch_after(const void* data, std::int64_t offset, std::int64_t row_bytes, int rows) {
  constexpr std::int64_t kAhead = 2048;
  const std::int64_t beyond = offset + kAhead < row_bytes ? 0 : (rows - 1) * row_bytes;
  _mm_prefetch(static_cast<const char*>(data) + kAhead + beyond, _MM_HINT_T0);
}

/// The sum of a register's lanes.
OSSATURE_VECTORS_AVX2 inline float sum_of(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int R, int T>
OSSATURE_VECTORS_AVX2 void dense_avx2(const DenseRows& rows, const float* x) {
  const auto size = rows.size;
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  __m256 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps();
  }
  for (std::int64_t i = 0; i < size; i += kGroup) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) prefetch_after(rows.weights + r * size + i, 2 * i, 2 * size, R);
    for (std::int64_t j = 0; j < kHalf; j += 8) {
      __m256 even[R], odd[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.weights + r * size + i + 2 * j));
        even[r] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        odd[r] = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const float* values = x + t * size + i + j;
        const __m256 even_values = _mm256_loadu_ps(values), odd_values = _mm256_loadu_ps(values + kHalf);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          sums[r][t] = _mm256_fmadd_ps(even[r], even_values, sums[r][t]);
          sums[r][t] = _mm256_fmadd_ps(odd[r], odd_values, sums[r][t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

/// A group of codes as 16-bit integers, twice their values: those at even places and those at odd ones.
struct Integers {
  __m256i even, odd;
};
OSSATURE_VECTORS_AVX2 inline Integers decoded(const std::uint8_t* codes, __m128i table) {
  const __m128i nibble = _mm_set1_epi8(15);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return {_mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble))),
          _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble)))};
}

/// A group's product is exact in 32-bit integers: 4 products of at most 12 * 2^15 to a lane.
template <int R, int T>
OSSATURE_VECTORS_AVX2 void packed_avx2(const Mxfp4Rows& rows, const std::int16_t* x, const std::int16_t* exponents) {
  const auto size = rows.size, groups = rows.groups();
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kDoubledValues));
  __m256 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps();
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    Integers weights[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      weights[r] = decoded(rows.codes_of(r, g), table);
      if (g % 4 == 0) prefetch_after(rows.codes_of(r, g), g * kHalf, rows.groups() * kHalf, R);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const auto* values = reinterpret_cast<const __m256i*>(x + t * size + g * kGroup);
      const __m256i even = _mm256_loadu_si256(values), odd = _mm256_loadu_si256(values + 1);
      const int exponent = exponents[t * groups + g];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i exact =
            _mm256_add_epi32(_mm256_madd_epi16(weights[r].even, even), _mm256_madd_epi16(weights[r].odd, odd));
        const __m256 scale = _mm256_set1_ps(kPowers.of(rows.exponent_of(r, g) + exponent));
        sums[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), scale, sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

// The unmasked forms of some of these make g++ 12 warn of an undefined operand.
inline constexpr __mmask16 kAll = 0xffff;

OSSATURE_VECTORS_AVX512 inline float sum_of(__m512 v) {
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, v);
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <int R, int T>
OSSATURE_VECTORS_AVX512 void dense_avx512(const DenseRows& rows, const float* x) {
  const auto size = rows.size;
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < size; i += kGroup) {
    __m512 even[R], odd[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      prefetch_after(rows.weights + r * size + i, 2 * i, 2 * size, R);
      const __m512i pairs = _mm512_loadu_si512(rows.weights + r * size + i);
      even[r] = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, pairs, 16));
      odd[r] = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const float* values = x + t * size + i;
      const __m512 even_values = _mm512_loadu_ps(values), odd_values = _mm512_loadu_ps(values + kHalf);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        sums[r][t] = _mm512_fmadd_ps(even[r], even_values, sums[r][t]);
        sums[r][t] = _mm512_fmadd_ps(odd[r], odd_values, sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

/// A look-up of 32-bit lanes reads only their lowest 4 bits, so a byte of two codes needs no mask.
template <int R, int T>
OSSATURE_VECTORS_AVX512 void packed_avx512(const Mxfp4Rows& rows, const float* x) {
  alignas(64) float entries[16];
  for (int code = 0; code < 16; ++code) entries[code] = kDoubledValues[code];
  const __m512 table = _mm512_load_ps(entries);
  __m512 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  for (std::int64_t g = 0; g < rows.groups(); ++g) {
    __m512 even[R], odd[R], scale[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.codes_of(r, g)));
      const __m512i bytes = _mm512_maskz_cvtepu8_epi32(kAll, codes);
      even[r] = _mm512_maskz_permutexvar_ps(kAll, bytes, table);
      odd[r] = _mm512_maskz_permutexvar_ps(kAll, _mm512_maskz_srli_epi32(kAll, bytes, 4), table);
      scale[r] = _mm512_set1_ps(rows.scale_of(r, g));
      if (g % 4 == 0) prefetch_after(rows.codes_of(r, g), g * kHalf, rows.groups() * kHalf, R);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const float* values = x + t * rows.size + g * kGroup;
      const __m512 even_values = _mm512_loadu_ps(values), odd_values = _mm512_loadu_ps(values + kHalf);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512 group = _mm512_fmadd_ps(even[r], even_values, _mm512_maskz_mul_ps(kAll, odd[r], odd_values));
        sums[r][t] = _mm512_fmadd_ps(group, scale[r], sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

}  // namespace ossature::vectors

#undef OSSATURE_VECTORS_AVX2
#undef OSSATURE_VECTORS_AVX512
#endif
