// The functions of bf16_tiles.h and attention_tiled_rows.h for Instructions::kAvx512Bf16, with the same contracts.
// Internal to model/.
#pragma once

#include "model/kernels/attention_tiled_rows.h"
#include "model/kernels/bf16_tiles.h"

/// Compiles a function for these processors.
#if defined(__x86_64__)
#define OSSATURE_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

namespace ossature::tiles::avx512 {

void pack_tokens(const BFloat16* const* rows, std::int64_t count, std::int64_t features, std::int64_t width,
                 BFloat16* out);
void pack_row_pairs(const BFloat16* rows, std::int64_t stride, std::int64_t count, std::int64_t padded,
                    std::int64_t width, BFloat16* out);
void store_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns, BFloat16* out,
                      std::int64_t stride);
void add_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns, const float* factors,
                    float* const* out);

void softmax_tile(const float* scores, std::int64_t rows, std::int64_t columns, float scale, const Visible* visible,
                  RunningSoftmax softmax, float* out, std::int64_t head_dim, BFloat16* weights);
void divide_by_sum(const float* out, std::int64_t rows, std::int64_t head_dim, const float* sum, BFloat16* to);
void gradient_tile(const float* scores, const float* grad_weights, std::int64_t rows, std::int64_t columns,
                   float log2_scale, float scale, const Visible* visible, RowConstants constants,
                   BFloat16* weight_pairs, BFloat16* gradients, BFloat16* gradient_pairs);
[[nodiscard]] float inner_product(const BFloat16* a, const BFloat16* b, std::int64_t size);
void unpack_pairs(const BFloat16* pairs, std::int64_t k, std::int64_t width, BFloat16* rows);

}  // namespace ossature::tiles::avx512

#endif
