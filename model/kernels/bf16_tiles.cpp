#include "model/kernels/bf16_tiles.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>

#include "model/kernels/bf16_tiles_avx512.h"
#include "model/kernels/vector_math.h"
#include "model/kernels/widened_product.h"

namespace ossature::tiles {
namespace {

using namespace vector_math;

struct PackTokens {
  OSSATURE_INLINE static void run(const BFloat16* const* rows, std::int64_t count, std::int64_t features,
                                  std::int64_t width, BFloat16* out) {
    auto* pairs = reinterpret_cast<std::uint32_t*>(out);
    constexpr std::int64_t kGroup = 8;
    for (std::int64_t group = 0; group < width; group += kGroup) {
      for (std::int64_t p = 0; p < features / 2; ++p) {
        for (auto t = group; t < group + kGroup; ++t) {
          pairs[p * width + t] = t < count ? reinterpret_cast<const std::uint32_t*>(rows[t])[p] : 0;
        }
      }
    }
  }
};

struct PackRowPairs {
  OSSATURE_INLINE static void run(const BFloat16* rows, std::int64_t stride, std::int64_t count, std::int64_t padded,
                                  std::int64_t width, BFloat16* out) {
    const auto* in = reinterpret_cast<const std::uint16_t*>(rows);
    auto* pairs = reinterpret_cast<std::uint32_t*>(out);
    for (std::int64_t row = 0; row < padded; row += 2, pairs += width) {
      const std::uint16_t* even = in + row * stride;
      const std::uint16_t* odd = even + stride;
      if (row + 1 < count) {
#pragma omp simd
        for (std::int64_t j = 0; j < width; ++j) pairs[j] = even[j] | static_cast<std::uint32_t>(odd[j]) << 16;
      } else {
        for (std::int64_t j = 0; j < width; ++j) pairs[j] = row < count ? even[j] : 0;
      }
    }
  }
};

struct StoreTransposed {
  OSSATURE_INLINE static void run(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns,
                                  BFloat16* out, std::int64_t stride) {
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t i = 0; i < 16; ++i) store(c[i * ldc + j] + bias[i], out + j * stride + i);
    }
  }
};

struct AddTransposed {
  OSSATURE_INLINE static void run(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns,
                                  const float* factors, float* const* out) {
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t i = 0; i < 16; ++i) out[j][i] += factors[j] * (c[i * ldc + j] + bias[i]);
    }
  }
};

}  // namespace

void pack_tokens(const BFloat16* const* rows, std::int64_t count, std::int64_t features, std::int64_t width,
                 BFloat16* out) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::pack_tokens(rows, count, features, width, out);
#endif
  run_fastest<PackTokens>(rows, count, features, width, out);
}

void pack_row_pairs(const BFloat16* rows, std::int64_t stride, std::int64_t count, std::int64_t padded,
                    std::int64_t width, BFloat16* out) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::pack_row_pairs(rows, stride, count, padded, width, out);
#endif
  run_fastest<PackRowPairs>(rows, stride, count, padded, width, out);
}

void store_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns, BFloat16* out,
                      std::int64_t stride) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::store_transposed(c, ldc, bias, columns, out, stride);
#endif
  run_fastest<StoreTransposed>(c, ldc, bias, columns, out, stride);
}

void add_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns, const float* factors,
                    float* const* out) {
#if defined(__x86_64__)
  if (has_bf16_products()) return avx512::add_transposed(c, ldc, bias, columns, factors, out);
#endif
  run_fastest<AddTransposed>(c, ldc, bias, columns, factors, out);
}

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t lda, const BFloat16* b,
              float* c, std::int64_t ldc, bool add) {
  multiply(m, n, k, a, lda, b, n, c, ldc, add);
}

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t lda, const BFloat16* b,
              std::int64_t ldb, float* c, std::int64_t ldc, bool add) {
  if (has_bf16_products()) {
    at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/true);
  } else {
    widened_multiply(m, n, k, a, lda, b, ldb, c, ldc, add);
  }
}

void release() {
  if (has_bf16_products()) at::native::cpublas::brgemm_release(/*is_vnni=*/true);
}

}  // namespace ossature::tiles
