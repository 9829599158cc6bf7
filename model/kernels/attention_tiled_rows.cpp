#include "model/kernels/attention_tiled_rows.h"

#include <bit>
#include <cmath>
#include <limits>

#include "model/kernels/bf16_tiles_avx512.h"
#include "model/kernels/vector_math.h"

namespace ossature::tiles {
namespace {

using namespace vector_math;

/// How far, in units of log 2, a score may lie over its row's top.
constexpr float kSlack = 8.0f;
/// Columns that are worked on at once; a tile's are a multiple of it.
constexpr std::int64_t kColumns = 32;

/// 2^x by 2^n times the polynomial of degree 4 with the least relative error on [-1/2, 1/2]: 2.6e-6. Zero below the
/// smallest normal number, and no more than 2^127.
OSSATURE_INLINE float power_of_two(float x) {
  float y = x < -126.0f ? -126.0f : x;
  y = y > 127.0f ? 127.0f : y;
  const float shifted = y + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const float f = y - (shifted - 12582912.0f);
  float p = 0.009570102207f;
  p = p * f + 0.055917859077f;
  p = p * f + 0.240247443318f;
  p = p * f + 0.693121790886f;
  p = p * f + 0.999999284744f;
  const float result = p * std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127u) << 23);
  return x < -126.0f ? 0.0f : (x != x ? x : result);
}

struct SoftmaxTile {
  OSSATURE_INLINE static void run(const float* scores, std::int64_t rows, std::int64_t columns, float scale,
                                  const Visible* visible, RunningSoftmax softmax, float* out, std::int64_t head_dim,
                                  BFloat16* weights) {
    for (std::int64_t r = 0; r < rows; ++r, scores += columns, weights += columns) {
      const auto begin = visible != nullptr ? visible->begin(r, columns) : 0;
      const auto end = visible != nullptr ? visible->end(r, columns) : columns;
      float highest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : highest)
      for (std::int64_t j = begin; j < end; ++j) highest = scores[j] * scale > highest ? scores[j] * scale : highest;
      if (highest > softmax.top[r] + kSlack) {
        const float shrink = std::exp2(softmax.top[r] - highest);
        softmax.top[r] = highest;
        softmax.sum[r] *= shrink;
#pragma omp simd
        for (std::int64_t d = 0; d < head_dim; ++d) out[r * head_dim + d] *= shrink;
      }
      const float top = softmax.top[r];
      float sum = 0.0f;
      for (std::int64_t first = 0; first < columns; first += kColumns) {
        float part[kColumns];
#pragma omp simd
        for (std::int64_t j = 0; j < kColumns; ++j) part[j] = power_of_two(scores[first + j] * scale - top);
        for (std::int64_t j = 0; j < kColumns && first + j < begin; ++j) part[j] = 0.0f;
        for (auto j = std::max<std::int64_t>(0, end - first); j < kColumns; ++j) part[j] = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t j = 0; j < kColumns; ++j) {
          sum += part[j];
          store(part[j], weights + first + j);
        }
      }
      softmax.sum[r] += sum;
    }
  }
};

struct GradientTile {
  OSSATURE_INLINE static void run(const float* scores, const float* grad_weights, std::int64_t rows,
                                  std::int64_t columns, float log2_scale, float scale, const Visible* visible,
                                  RowConstants constants, BFloat16* weight_pairs, BFloat16* gradients,
                                  BFloat16* gradient_pairs) {
    auto* weights_out = reinterpret_cast<std::uint32_t*>(weight_pairs);
    auto* gradients_out = reinterpret_cast<std::uint32_t*>(gradient_pairs);
    for (std::int64_t r = 0; r < rows; r += 2) {
      for (std::int64_t first = 0; first < columns; first += kColumns) {
        float weight[2][kColumns], gradient[2][kColumns];
        for (int i = 0; i < 2; ++i) {
          const auto place = (r + i) * columns + first;
          const float lse = constants.lse[r + i], delta = constants.delta[r + i];
#pragma omp simd
          for (std::int64_t j = 0; j < kColumns; ++j) {
            weight[i][j] = power_of_two(scores[place + j] * log2_scale - lse);
            gradient[i][j] = weight[i][j] * (grad_weights[place + j] * scale - delta);
          }
          if (visible != nullptr) {
            const auto begin = visible->begin(r + i, columns), end = visible->end(r + i, columns);
            for (std::int64_t j = 0; j < kColumns; ++j) {
              const bool sees = first + j >= begin && first + j < end;
              weight[i][j] = sees ? weight[i][j] : 0.0f;
              gradient[i][j] = sees ? gradient[i][j] : 0.0f;
            }
          }
#pragma omp simd
          for (std::int64_t j = 0; j < kColumns; ++j) store(gradient[i][j], gradients + place + j);
        }
        const auto pair = r / 2 * columns + first;
#pragma omp simd
        for (std::int64_t j = 0; j < kColumns; ++j) {
          weights_out[pair + j] = rounded_bits(weight[0][j]) >> 16 | rounded_bits(weight[1][j]);
          gradients_out[pair + j] = rounded_bits(gradient[0][j]) >> 16 | rounded_bits(gradient[1][j]);
        }
      }
    }
  }
};

struct DivideBySum {
  OSSATURE_INLINE static void run(const float* out, std::int64_t rows, std::int64_t head_dim, const float* sum,
                                  BFloat16* to) {
    for (std::int64_t r = 0; r < rows; ++r) {
#pragma omp simd
      for (std::int64_t d = 0; d < head_dim; ++d) store(out[r * head_dim + d] / sum[r], to + r * head_dim + d);
    }
  }
};

struct InnerProduct {
  OSSATURE_INLINE static float run(const BFloat16* a, const BFloat16* b, std::int64_t size) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < size; ++d) sum += load(a[d]) * load(b[d]);
    return sum;
  }
};

struct UnpackPairs {
  OSSATURE_INLINE static void run(const BFloat16* pairs, std::int64_t k, std::int64_t width, BFloat16* rows) {
    const auto* in = reinterpret_cast<const std::uint32_t*>(pairs);
    auto* out = reinterpret_cast<std::uint16_t*>(rows);
    for (std::int64_t row = 0; row < k; row += 2) {
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) {
        const auto both = in[row / 2 * width + j];
        out[row * width + j] = static_cast<std::uint16_t>(both);
        out[(row + 1) * width + j] = static_cast<std::uint16_t>(both >> 16);
      }
    }
  }
};

}  // namespace

void softmax_tile(const float* scores, std::int64_t rows, std::int64_t columns, float scale, const Visible* visible,
                  RunningSoftmax softmax, float* out, std::int64_t head_dim, BFloat16* weights) {
#if defined(__x86_64__)
  if (has_bf16_products()) {
    return avx512::softmax_tile(scores, rows, columns, scale, visible, softmax, out, head_dim, weights);
  }
#endif
  run_fastest<SoftmaxTile>(scores, rows, columns, scale, visible, softmax, out, head_dim, weights);
}

void gradient_tile(const float* scores, const float* grad_weights, std::int64_t rows, std::int64_t columns,
                   float log2_scale, float scale, const Visible* visible, RowConstants constants,
                   BFloat16* weight_pairs, BFloat16* gradients, BFloat16* gradient_pairs) {
#if defined(__x86_64__)
  if (has_bf16_products()) {
    return avx512::gradient_tile(scores, grad_weights, rows, columns, log2_scale, scale, visible, constants,
                                 weight_pairs, gradients, gradient_pairs);
  }
#endif
  run_fastest<GradientTile>(scores, grad_weights, rows, columns, log2_scale, scale, visible, constants, weight_pairs,
                            gradients, gradient_pairs);
}

void divide_by_sum(const float* out, std::int64_t rows, std::int64_t head_dim, const float* sum, BFloat16* to) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::divide_by_sum(out, rows, head_dim, sum, to);
#endif
  run_fastest<DivideBySum>(out, rows, head_dim, sum, to);
}

float inner_product(const BFloat16* a, const BFloat16* b, std::int64_t size) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::inner_product(a, b, size);
#endif
  return run_fastest<InnerProduct>(a, b, size);
}

void unpack_pairs(const BFloat16* pairs, std::int64_t k, std::int64_t width, BFloat16* rows) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::unpack_pairs(pairs, k, width, rows);
#endif
  run_fastest<UnpackPairs>(pairs, k, width, rows);
}

}  // namespace ossature::tiles
