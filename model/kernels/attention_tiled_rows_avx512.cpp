#include "model/kernels/bf16_tiles_avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <limits>
// g++ 12 takes the operand that unmasked intrinsics leave undefined for a mistake of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace ossature::tiles::avx512 {

namespace {

/// How far, in units of log 2, a score may lie over its row's top.
constexpr float kSlack = 8.0f;

/// 2^x by 2^n times the polynomial of degree 4 with the least relative error on [-1/2, 1/2]: 2.6e-6.
OSSATURE_AVX512_BF16 inline __m512 power_of_two(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(0.009570102207f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.055917859077f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240247443318f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693121790886f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999999284744f));
  return _mm512_scalef_ps(p, n);
}

/// Bits of the lanes column .. column + 16 that lie in begin .. end.
inline __mmask16 lanes(std::int64_t column, std::int64_t begin, std::int64_t end) {
  const auto below = [&](std::int64_t limit) {
    return (1u << static_cast<unsigned>(std::clamp<std::int64_t>(limit - column, 0, 16))) - 1u;
  };
  return static_cast<__mmask16>(below(end) & ~below(begin));
}

OSSATURE_AVX512_BF16 inline __m512 widen(const BFloat16* values) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <bool kMasked>
OSSATURE_AVX512_BF16 void softmax_tile_of(const float* scores, std::int64_t rows, std::int64_t columns, float scale,
                                          const Visible& visible, RunningSoftmax softmax, float* out,
                                          std::int64_t head_dim, BFloat16* weights) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t r = 0; r < rows; ++r, scores += columns, weights += columns) {
    const auto begin = kMasked ? visible.begin(r, columns) : 0, end = kMasked ? visible.end(r, columns) : columns;
    __m512 highest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (std::int64_t j = 0; j < columns; j += 16) {
      const __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + j), factor);
      highest =
          kMasked ? _mm512_mask_max_ps(highest, lanes(j, begin, end), highest, score) : _mm512_max_ps(highest, score);
    }
    if (_mm512_cmp_ps_mask(highest, _mm512_set1_ps(softmax.top[r] + kSlack), _CMP_GT_OQ) != 0) {
      const float top = _mm512_reduce_max_ps(highest);
      const float shrink = std::exp2(softmax.top[r] - top);
      softmax.top[r] = top;
      softmax.sum[r] *= shrink;
      for (std::int64_t d = 0; d < head_dim; d += 16) {
        float* part = out + r * head_dim + d;
        _mm512_storeu_ps(part, _mm512_mul_ps(_mm512_loadu_ps(part), _mm512_set1_ps(shrink)));
      }
    }
    const __m512 top = _mm512_set1_ps(softmax.top[r]);
    __m512 sum = _mm512_setzero_ps();
    for (std::int64_t j = 0; j < columns; j += 32) {
      __m512 low = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j), factor, top));
      __m512 high = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j + 16), factor, top));
      if (kMasked) {
        low = _mm512_maskz_mov_ps(lanes(j, begin, end), low);
        high = _mm512_maskz_mov_ps(lanes(j + 16, begin, end), high);
      }
      sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
      _mm512_storeu_si512(weights + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    softmax.sum[r] += _mm512_reduce_add_ps(sum);
  }
}

template <bool kMasked>
OSSATURE_AVX512_BF16 void gradient_tile_of(const float* scores, const float* grad_weights, std::int64_t rows,
                                           std::int64_t columns, float log2_scale, float scale, const Visible& visible,
                                           RowConstants constants, BFloat16* weight_pairs, BFloat16* gradients,
                                           BFloat16* gradient_pairs) {
  // Two rows' 16 values, one row after the other -> beside each other.
  alignas(64) static constexpr std::uint16_t kBeside[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i beside = _mm512_load_si512(kBeside);
  const __m512 log2_factor = _mm512_set1_ps(log2_scale), factor = _mm512_set1_ps(scale);
  for (std::int64_t r = 0; r < rows; r += 2) {
    const __m512 lse[2] = {_mm512_set1_ps(constants.lse[r]), _mm512_set1_ps(constants.lse[r + 1])};
    const __m512 delta[2] = {_mm512_set1_ps(constants.delta[r]), _mm512_set1_ps(constants.delta[r + 1])};
    const std::int64_t begin[2] = {visible.begin(r, columns), visible.begin(r + 1, columns)};
    const std::int64_t end[2] = {visible.end(r, columns), visible.end(r + 1, columns)};
    for (std::int64_t j = 0; j < columns; j += 16) {
      __m512 weight[2], gradient[2];
      for (int i = 0; i < 2; ++i) {
        const auto place = (r + i) * columns + j;
        weight[i] = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + place), log2_factor, lse[i]));
        const __m512 slope = _mm512_fmsub_ps(_mm512_loadu_ps(grad_weights + place), factor, delta[i]);
        if (kMasked) {
          const __mmask16 mask = lanes(j, begin[i], end[i]);
          weight[i] = _mm512_maskz_mov_ps(mask, weight[i]);
          gradient[i] = _mm512_maskz_mul_ps(mask, weight[i], slope);
        } else {
          gradient[i] = _mm512_mul_ps(weight[i], slope);
        }
      }
      const auto both_weights = (__m512i)_mm512_cvtne2ps_pbh(weight[1], weight[0]);
      const auto both = (__m512i)_mm512_cvtne2ps_pbh(gradient[1], gradient[0]);
      const auto pair = (r * columns / 2 + j) * 2;
      _mm512_storeu_si512(weight_pairs + pair, _mm512_permutexvar_epi16(beside, both_weights));
      _mm512_storeu_si512(gradient_pairs + pair, _mm512_permutexvar_epi16(beside, both));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(gradients + r * columns + j), _mm512_castsi512_si256(both));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(gradients + (r + 1) * columns + j),
                          _mm512_extracti64x4_epi64(both, 1));
    }
  }
}

}  // namespace

void softmax_tile(const float* scores, std::int64_t rows, std::int64_t columns, float scale, const Visible* visible,
                  RunningSoftmax softmax, float* out, std::int64_t head_dim, BFloat16* weights) {
  if (visible != nullptr) {
    softmax_tile_of<true>(scores, rows, columns, scale, *visible, softmax, out, head_dim, weights);
  } else {
    softmax_tile_of<false>(scores, rows, columns, scale, {}, softmax, out, head_dim, weights);
  }
}

void gradient_tile(const float* scores, const float* grad_weights, std::int64_t rows, std::int64_t columns,
                   float log2_scale, float scale, const Visible* visible, RowConstants constants,
                   BFloat16* weight_pairs, BFloat16* gradients, BFloat16* gradient_pairs) {
  if (visible != nullptr) {
    gradient_tile_of<true>(scores, grad_weights, rows, columns, log2_scale, scale, *visible, constants, weight_pairs,
                           gradients, gradient_pairs);
  } else {
    gradient_tile_of<false>(scores, grad_weights, rows, columns, log2_scale, scale, {0, 1, 1, 0}, constants,
                            weight_pairs, gradients, gradient_pairs);
  }
}

OSSATURE_AVX512_BF16 void divide_by_sum(const float* out, std::int64_t rows, std::int64_t head_dim, const float* sum,
                                        BFloat16* to) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const __m512 divisor = _mm512_set1_ps(sum[r]);
    for (std::int64_t d = 0; d < head_dim; d += 16) {
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_div_ps(_mm512_loadu_ps(out + r * head_dim + d), divisor));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + r * head_dim + d), (__m256i)rounded);
    }
  }
}

OSSATURE_AVX512_BF16 float inner_product(const BFloat16* a, const BFloat16* b, std::int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t d = 0; d < size; d += 16) sum = _mm512_fmadd_ps(widen(a + d), widen(b + d), sum);
  return _mm512_reduce_add_ps(sum);
}

OSSATURE_AVX512_BF16 void unpack_pairs(const BFloat16* pairs, std::int64_t k, std::int64_t width, BFloat16* rows) {
  for (std::int64_t row = 0; row < k; row += 2) {
    for (std::int64_t j = 0; j < width; j += 16) {
      const __m512i both = _mm512_loadu_si512(pairs + (row / 2 * width + j) * 2);
      auto* even = reinterpret_cast<__m256i*>(rows + row * width + j);
      auto* odd = reinterpret_cast<__m256i*>(rows + (row + 1) * width + j);
      _mm256_storeu_si256(even, _mm512_cvtepi32_epi16(both));
      _mm256_storeu_si256(odd, _mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
    }
  }
}

}  // namespace ossature::tiles::avx512

#endif
