#include "model/export/mxfp4_recode.h"

#include <algorithm>
#include <bit>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

/// The bits of a float32 without its sign; those of infinity and NaN are the largest.
constexpr std::uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

/// 2^(127 - scale) as bits, from 2^127 to 2^-125 for the scales that are allowed.
std::uint32_t inverse_scale(std::uint8_t scale) {
  return static_cast<std::uint32_t>(254 - scale) << 23;
}

/// IEEE round to nearest even on one mantissa bit.
std::uint8_t code_of(float value, float factor) {
  const float m = std::fabs(value) * factor;
  const int magnitude = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) + (m > 5.0f);
  return static_cast<std::uint8_t>(magnitude | (std::signbit(value) ? 8 : 0));
}

bool recode_plain(const float* values, const std::uint8_t* scales, const std::uint8_t* before, std::int64_t num_blocks,
                  std::uint8_t* out) {
  std::uint32_t largest = 0;
  const auto kept = [](std::uint8_t code, int old) { return ((code | old) & 7) == 0 ? old : code; };
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const auto factor = std::bit_cast<float>(inverse_scale(scales[block]));
    for (std::int64_t i = 0; i < kMxfp4BlockBytes; ++i, values += 2) {
      const int old = *before++;
      for (const int n : {0, 1}) largest = std::max(largest, std::bit_cast<std::uint32_t>(values[n]) & kMagnitude);
      *out++ = static_cast<std::uint8_t>(kept(code_of(values[0], factor), old & 15) |
                                         kept(code_of(values[1], factor), old >> 4) << 4);
    }
  }
  return largest < kInfinity;
}

#if defined(__x86_64__)
/// Nibbles in which either magnitude is not zero take the new code; +0 and -0 are the same value.
OSSATURE_INLINE __m128i with_old_zeros(__m128i codes, __m128i old) {
  const __m128i digits = _mm_set1_epi8(0x77), last = _mm_set1_epi8(0x11), low = _mm_set1_epi8(0x0f);
  __m128i any = _mm_and_si128(_mm_or_si128(codes, old), digits);
  any = _mm_or_si128(any, _mm_or_si128(_mm_srli_epi16(any, 1), _mm_srli_epi16(any, 2)));
  any = _mm_and_si128(any, last);
  const __m128i lower = _mm_cmpeq_epi8(_mm_and_si128(any, low), _mm_setzero_si128());
  const __m128i upper = _mm_cmpeq_epi8(_mm_andnot_si128(low, any), _mm_setzero_si128());
  const __m128i stays = _mm_or_si128(_mm_and_si128(lower, low), _mm_andnot_si128(low, upper));
  return _mm_or_si128(_mm_and_si128(stays, old), _mm_andnot_si128(stays, codes));
}

constexpr __mmask16 kAll = 0xffff;  // the unmasked forms make g++ 12 warn of an undefined operand

/// Codes of 16 values in lanes of 32 bits.
OSSATURE_WIDE inline __m512i codes_of(__m512 values, __m512 factor) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512 m = _mm512_maskz_min_ps(kAll, _mm512_mul_ps(_mm512_abs_ps(values), factor), _mm512_set1_ps(6.0f));
  // From 1 up: the exponent and one bit of the mantissa, after adding half of that bit (less one unit if it is even).
  const __m512i m_bits = _mm512_castps_si512(m), one = _mm512_set1_epi32(1);
  const __m512i half =
      _mm512_add_epi32(_mm512_set1_epi32(0x1fffff), _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, m_bits, 22), one));
  const __m512i normal =
      _mm512_sub_epi32(_mm512_maskz_srli_epi32(kAll, _mm512_add_epi32(m_bits, half), 22), _mm512_set1_epi32(252));
  // Below 1: added to 2^22, whose last bit is worth 0.5, it is rounded by the processor.
  const __m512i small =
      _mm512_and_si512(_mm512_castps_si512(_mm512_add_ps(m, _mm512_set1_ps(4194304.0f))), _mm512_set1_epi32(7));
  const __m512i magnitude =
      _mm512_mask_mov_epi32(small, _mm512_cmp_ps_mask(m, _mm512_set1_ps(1.0f), _CMP_GE_OQ), normal);
  return _mm512_or_si512(magnitude, _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 28), _mm512_set1_epi32(8)));
}

/// Two codes beside each other become a byte.
OSSATURE_WIDE inline __m128i packed(__m512i codes) {
  return _mm512_maskz_cvtepi64_epi8(0xff, _mm512_or_si512(codes, _mm512_maskz_srli_epi64(0xff, codes, 28)));
}

OSSATURE_WIDE bool recode_wide(const float* values, const std::uint8_t* scales, const std::uint8_t* before,
                               std::int64_t num_blocks, std::uint8_t* out) {
  const __m512i magnitude = _mm512_set1_epi32(kMagnitude);
  __m512i largest = _mm512_setzero_si512();
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const __m512 factor = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(inverse_scale(scales[block]))));
    const __m512 first = _mm512_loadu_ps(values + block * kMxfp4BlockSize);
    const __m512 second = _mm512_loadu_ps(values + block * kMxfp4BlockSize + 16);
    largest = _mm512_maskz_max_epu32(kAll, largest, _mm512_and_si512(_mm512_castps_si512(first), magnitude));
    largest = _mm512_maskz_max_epu32(kAll, largest, _mm512_and_si512(_mm512_castps_si512(second), magnitude));
    const __m128i codes = _mm_unpacklo_epi64(packed(codes_of(first, factor)), packed(codes_of(second, factor)));
    const __m128i old = _mm_loadu_si128(reinterpret_cast<const __m128i*>(before + block * kMxfp4BlockBytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + block * kMxfp4BlockBytes), with_old_zeros(codes, old));
  }
  return _mm512_cmpge_epu32_mask(largest, _mm512_set1_epi32(kInfinity)) == 0;
}

/// The same of 8 values.
OSSATURE_AVX2 inline __m256i codes_of(__m256 values, __m256 factor) {
  const __m256i bits = _mm256_castps_si256(values), one = _mm256_set1_epi32(1);
  const __m256 magnitudes = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(kMagnitude)));
  const __m256 m = _mm256_min_ps(_mm256_mul_ps(magnitudes, factor), _mm256_set1_ps(6.0f));
  const __m256i m_bits = _mm256_castps_si256(m);
  const __m256i half =
      _mm256_add_epi32(_mm256_set1_epi32(0x1fffff), _mm256_and_si256(_mm256_srli_epi32(m_bits, 22), one));
  const __m256i normal =
      _mm256_sub_epi32(_mm256_srli_epi32(_mm256_add_epi32(m_bits, half), 22), _mm256_set1_epi32(252));
  const __m256i small =
      _mm256_and_si256(_mm256_castps_si256(_mm256_add_ps(m, _mm256_set1_ps(4194304.0f))), _mm256_set1_epi32(7));
  const __m256i is_normal = _mm256_castps_si256(_mm256_cmp_ps(m, _mm256_set1_ps(1.0f), _CMP_GE_OQ));
  return _mm256_or_si256(_mm256_blendv_epi8(small, normal, is_normal),
                         _mm256_and_si256(_mm256_srli_epi32(bits, 28), _mm256_set1_epi32(8)));
}

OSSATURE_AVX2 bool recode_avx2(const float* values, const std::uint8_t* scales, const std::uint8_t* before,
                               std::int64_t num_blocks, std::uint8_t* out) {
  const __m256i magnitude = _mm256_set1_epi32(kMagnitude);
  __m256i largest = _mm256_setzero_si256();
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const __m256 factor = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(inverse_scale(scales[block]))));
    __m256i codes[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256 some = _mm256_loadu_ps(values + block * kMxfp4BlockSize + 8 * i);
      largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(some), magnitude));
      codes[i] = codes_of(some, factor);
    }
    // Packing works in halves of 128 bits: in the lower one are the first four codes of each eight.
    const __m256i bytes =
        _mm256_packus_epi16(_mm256_packus_epi32(codes[0], codes[1]), _mm256_packus_epi32(codes[2], codes[3]));
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x1001));
    const __m256i packed = _mm256_packus_epi16(pairs, pairs);
    const __m128i in_order = _mm_unpacklo_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
    const __m128i old = _mm_loadu_si128(reinterpret_cast<const __m128i*>(before + block * kMxfp4BlockBytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + block * kMxfp4BlockBytes), with_old_zeros(in_order, old));
  }
  const __m256i infinity = _mm256_set1_epi32(kInfinity);  // as signed numbers too the magnitudes are not negative
  return _mm256_movemask_epi8(_mm256_cmpgt_epi32(infinity, largest)) == -1;
}
#endif

}  // namespace

bool mxfp4_recode(const float* values, const std::uint8_t* scales, const std::uint8_t* before, std::int64_t num_blocks,
                  std::uint8_t* out, std::optional<Mxfp4Kernel> kernel) {
#if defined(__x86_64__)
  const auto wanted = kernel.value_or(Mxfp4Kernel::kAvx512);
  if (wanted == Mxfp4Kernel::kAvx512 && vector_math::is_wide())
    return recode_wide(values, scales, before, num_blocks, out);
  if (wanted != Mxfp4Kernel::kPlain && instructions() >= Instructions::kAvx2)
    return recode_avx2(values, scales, before, num_blocks, out);
#endif
  return recode_plain(values, scales, before, num_blocks, out);
}

}  // namespace ossature
