#include "model/kernels/bf16_tiles_avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
// g++ 12 takes the operand that unmasked intrinsics leave undefined for a mistake of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace ossature::tiles::avx512 {

namespace {

/// 16 rows of 16 values of 32 bits, transposed in place: halves are exchanged between rows 1, 2, 4 and 8 apart.
OSSATURE_AVX512_BF16 inline void transpose16(__m512i (&rows)[16]) {
  __m512i half[16];
  for (int i = 0; i < 8; ++i) {
    half[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    half[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(half[4 * i], half[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(half[4 * i], half[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(half[4 * i + 1], half[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(half[4 * i + 1], half[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    half[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    half[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    half[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    half[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0xdd);
  }
}

/// c + bias by row, transposed: rows[j] holds column j.
OSSATURE_AVX512_BF16 inline void load_transposed(const float* c, std::int64_t ldc, const float* bias,
                                                 __m512i (&rows)[16]) {
  for (int i = 0; i < 16; ++i) {
    const __m512 value = _mm512_add_ps(_mm512_loadu_ps(c + i * ldc), _mm512_set1_ps(bias[i]));
    rows[i] = _mm512_castps_si512(value);
  }
  transpose16(rows);
}

}  // namespace

OSSATURE_AVX512_BF16 void pack_tokens(const BFloat16* const* rows, std::int64_t count, std::int64_t features,
                                      std::int64_t width, BFloat16* out) {
  auto* pairs = reinterpret_cast<std::uint32_t*>(out);
  const std::int64_t num_pairs = features / 2;
  for (std::int64_t group = 0; group < width; group += 16) {
    const std::int64_t present = std::clamp<std::int64_t>(count - group, 0, 16);
    for (std::int64_t first = 0; first < num_pairs; first += 16) {
      const std::int64_t length = std::min<std::int64_t>(16, num_pairs - first);
      const auto mask = static_cast<__mmask16>((1u << length) - 1u);
      __m512i tile[16];
      for (std::int64_t i = 0; i < 16; ++i) {
        tile[i] = i < present
                      ? _mm512_maskz_loadu_epi32(mask, reinterpret_cast<const std::uint32_t*>(rows[group + i]) + first)
                      : _mm512_setzero_si512();
      }
      transpose16(tile);
      for (std::int64_t i = 0; i < length; ++i) _mm512_storeu_si512(pairs + (first + i) * width + group, tile[i]);
    }
  }
}

OSSATURE_AVX512_BF16 void pack_row_pairs(const BFloat16* rows, std::int64_t stride, std::int64_t count,
                                         std::int64_t padded, std::int64_t width, BFloat16* out) {
  const auto* in = reinterpret_cast<const std::uint16_t*>(rows);
  auto* pairs = reinterpret_cast<std::uint32_t*>(out);
  const __mmask16 all = 0xffff;  // the unmasked forms make g++ 12 warn of an undefined operand
  // Values 0 .. 15 of the one row between those of the other, and 16 .. 31.
  const __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i first_half =
      _mm512_or_si512(places, _mm512_slli_epi32(_mm512_add_epi32(places, _mm512_set1_epi32(32)), 16));
  const __m512i second_half = _mm512_add_epi32(first_half, _mm512_set1_epi32(0x00100010));
  for (std::int64_t row = 0; row < padded; row += 2, pairs += width) {
    const std::uint16_t* even = in + row * stride;
    const std::uint16_t* odd = even + stride;
    const bool has_even = row < count, has_odd = row + 1 < count;
    std::int64_t column = 0;
    for (; has_odd && column + 32 <= width; column += 32) {
      const __m512i low = _mm512_loadu_si512(even + column), high = _mm512_loadu_si512(odd + column);
      _mm512_storeu_si512(pairs + column, _mm512_permutex2var_epi16(low, first_half, high));
      _mm512_storeu_si512(pairs + column + 16, _mm512_permutex2var_epi16(low, second_half, high));
    }
    for (; column < width; column += 16) {
      const auto length = std::min<std::int64_t>(16, width - column);
      const auto mask = static_cast<__mmask16>((1u << length) - 1u);
      const __m512i low = has_even ? _mm512_maskz_cvtepu16_epi32(all, _mm256_maskz_loadu_epi16(mask, even + column))
                                   : _mm512_setzero_si512();
      const __m512i high = has_odd ? _mm512_maskz_cvtepu16_epi32(all, _mm256_maskz_loadu_epi16(mask, odd + column))
                                   : _mm512_setzero_si512();
      _mm512_mask_storeu_epi32(pairs + column, mask, _mm512_or_si512(low, _mm512_maskz_slli_epi32(all, high, 16)));
    }
  }
}

OSSATURE_AVX512_BF16 void store_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns,
                                           BFloat16* out, std::int64_t stride) {
  __m512i rows[16];
  load_transposed(c, ldc, bias, rows);
  for (std::int64_t j = 0; j < columns; ++j) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_castsi512_ps(rows[j]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j * stride), (__m256i)rounded);
  }
}

OSSATURE_AVX512_BF16 void add_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns,
                                         const float* factors, float* const* out) {
  __m512i rows[16];
  load_transposed(c, ldc, bias, rows);
  for (std::int64_t j = 0; j < columns; ++j) {
    const __m512 sum =
        _mm512_fmadd_ps(_mm512_castsi512_ps(rows[j]), _mm512_set1_ps(factors[j]), _mm512_loadu_ps(out[j]));
    _mm512_storeu_ps(out[j], sum);
  }
}

}  // namespace ossature::tiles::avx512

#endif
