// Matrix products in bfloat16 in pieces that fit a core's own cache: the small product itself, and the packed orders
// that it reads. In "pairs" order a [K, N] operand lies as [K / 2][N][2]: two consecutive values of K beside each
// other, as the dot product of pairs takes them on processors that have one. There the product is LibTorch's brgemm,
// elsewhere our own (widened_product.h).
#pragma once

#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/BFloat16.h>

#include "model/kernels/processor.h"

namespace ossature::tiles {

using BFloat16 = c10::BFloat16;

/// Rows of a weight that are worked on at once: with gpt-oss's 2,880 columns they fill a third of a second-level cache
/// of 1 MiB.
inline constexpr std::int64_t kWeightRows = 64;
/// What the width of a packed block of tokens is a multiple of.
inline constexpr std::int64_t kBlockUnit = 16;
inline constexpr std::int64_t kMaxTokenBlock = 128;

/// Whether the processor multiplies pairs of bfloat16.
[[nodiscard]] inline bool has_bf16_products() {
  return instructions() >= Instructions::kAvx512Bf16;
}

/// Tokens of a packed block: two vector registers where pairs are multiplied, elsewhere many, since each product with a
/// block widens the weight's rows anew.
[[nodiscard]] inline std::int64_t token_block() {
  return has_bf16_products() ? 32 : kMaxTokenBlock;
}

/// c [m, n] = a [m, k] b, or c += a b; b [k, n] in pairs order, k even. `lda` and `ldc` are row strides.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t lda, const BFloat16* b,
              float* c, std::int64_t ldc, bool add);
/// The same with the first n columns of a wider b: `ldb` pairs lie in each of its rows.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const BFloat16* a, std::int64_t lda, const BFloat16* b,
              std::int64_t ldb, float* c, std::int64_t ldc, bool add);

/// Frees what `multiply` holds of the processor's state; call it when a thread has done its share of a task.
void release();

/// `count` tokens, rows[i] of `features` values (even), as the [features, width] operand in pairs order: `out` has
/// features / 2 * width * 2 values. Places of tokens from `count` to `width` (a multiple of 16) are zero.
void pack_tokens(const BFloat16* const* rows, std::int64_t count, std::int64_t features, std::int64_t width,
                 BFloat16* out);

/// Rows first .. first + count of a matrix with row stride `stride`, columns 0 .. width, as the [count, width] operand
/// in pairs order; `padded` (even) >= count rows are written, those past count as zeros.
void pack_row_pairs(const BFloat16* rows, std::int64_t stride, std::int64_t count, std::int64_t padded,
                    std::int64_t width, BFloat16* out);

/// c [16, 16] (row stride ldc) + bias[row], rounded and transposed: out[j * stride + i] for row i and column j <
/// columns.
void store_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns, BFloat16* out,
                      std::int64_t stride);

/// out[j][i] += factors[j] * (c[i][j] + bias[i]), i < 16, j < columns <= 16; out[j] points to 16 floats.
void add_transposed(const float* c, std::int64_t ldc, const float* bias, std::int64_t columns, const float* factors,
                    float* const* out);

/// Memory for a while, 64-byte aligned and not initialised: from where LibTorch's tensors are, since large blocks that
/// come and go fray the C library's heap (tensor_memory.h).
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : data_(c10::GetCPUAllocator()->allocate(static_cast<std::size_t>(count) * sizeof(T))) {}
  [[nodiscard]] T* data() const { return static_cast<T*>(data_.get()); }

 private:
  c10::DataPtr data_;
};

/// Runs the tasks 0 .. count - 1 on all threads. Each thread makes a worker of its own, which holds its buffers, and
/// calls worker(task) for the next task that nobody has, so a slow or interrupted thread holds up no other. Tasks must
/// not depend on each other. Gradient mode is not carried over: use raw pointers.
template <typename MakeWorker>
void for_each_task(std::int64_t count, const MakeWorker& make_worker) {
  std::atomic<std::int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
    auto task = next++;
    if (task >= count) return;
    auto worker = make_worker();
    for (; task < count; task = next++) worker(task);
    release();
  });
}

}  // namespace ossature::tiles
