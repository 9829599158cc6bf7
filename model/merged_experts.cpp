#include "model/merged_experts.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/balanced_rounding.h"
#include "model/mxfp4_recode.h"
#include "model/vector_math.h"

namespace ossature {
namespace {

/// Rows that a thread works on at a time: in float32 they and A fit into a core's cache.
constexpr std::int64_t kRows = 16;

void check(bool is_finite, const std::string& name) {
  if (is_finite) return;
  throw CheckpointError("export: " + name + " merged with the adapter has a value that is not finite; expected " +
                        "finite numbers; the adapter is damaged or diverged");
}

/// to [size] = from, bfloat16 bits.
struct Widen {
  OSSATURE_INLINE static void run(const std::uint16_t* from, std::int64_t size, float* to) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) to[i] = std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
  }
};

/// rows [count, I] += b [count, r] a [r, I].
struct AddLowRank {
  static constexpr std::int64_t kTogether = 4;  // rows for which a piece of A is fetched once
  static constexpr std::int64_t kPiece = 64;    // its columns

  OSSATURE_INLINE static void run(const float* a, const float* b, std::int64_t count, std::int64_t columns,
                                  std::int64_t rank, float* rows) {
    for (std::int64_t row = 0; row < count; row += kTogether) {
      const auto together = std::min(kTogether, count - row);
      for (std::int64_t first = 0; first < columns; first += kPiece) {
        const auto width = std::min(kPiece, columns - first);
        if (together == kTogether && width == kPiece) {
          add<true>(a + first, b + row * rank, kTogether, kPiece, columns, rank, rows + row * columns + first);
        } else {
          add<false>(a + first, b + row * rank, together, width, columns, rank, rows + row * columns + first);
        }
      }
    }
  }

 private:
  /// `kWhole`: sizes that the compiler knows.
  template <bool kWhole>
  OSSATURE_INLINE static void add(const float* a, const float* b, std::int64_t count, std::int64_t width,
                                  std::int64_t columns, std::int64_t rank, float* rows) {
    alignas(64) float sums[kTogether][kPiece];
    const auto num_rows = kWhole ? kTogether : count, num_columns = kWhole ? kPiece : width;
    for (std::int64_t r = 0; r < num_rows; ++r) {
#pragma omp simd
      for (std::int64_t i = 0; i < num_columns; ++i) sums[r][i] = rows[r * columns + i];
    }
    for (std::int64_t k = 0; k < rank; ++k) {
      for (std::int64_t r = 0; r < num_rows; ++r) {
        const float factor = b[r * rank + k];
#pragma omp simd
        for (std::int64_t i = 0; i < num_columns; ++i) sums[r][i] += factor * a[k * columns + i];
      }
    }
    for (std::int64_t r = 0; r < num_rows; ++r) {
#pragma omp simd
      for (std::int64_t i = 0; i < num_columns; ++i) rows[r * columns + i] = sums[r][i];
    }
  }
};

/// Rows `first` to `first` + `count` of expert `e`, to [count, I]. `half` has room for as many values.
void decode_rows(const ExpertWeight& base, std::int64_t e, std::int64_t first, std::int64_t count, std::uint16_t* half,
                 float* to) {
  const auto width = base.in_features();
  if (!base.is_packed()) {
    at::from_blob(to, {count, width}, at::kFloat).copy_(base.dense[e].narrow(0, first, count));
    return;
  }
  const at::Tensor blocks = base.packed.blocks[e], scales = base.packed.scales[e];
  mxfp4_decode_rows(blocks.const_data_ptr<std::uint8_t>(), scales.const_data_ptr<std::uint8_t>(), first, count,
                    width / kMxfp4BlockSize, half);
  vector_math::run_fastest<Widen>(static_cast<const std::uint16_t*>(half), count * width, to);
}

/// Calls take(first row, number of rows, their values [rows, I] of base + scale B A) from all threads.
template <typename Take>
void for_merged_rows(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const Take& take) {
  const auto out = base.out_features(), width = base.in_features();
  at::Tensor a, b;
  if (pair.defined()) {
    at::NoGradGuard no_grad;
    a = pair.a[e].detach().to(at::kFloat).contiguous();
    b = (pair.b[e].detach().to(at::kFloat) * pair.scale).contiguous();
  }
  at::parallel_for(0, (out + kRows - 1) / kRows, 4, [&](std::int64_t begin, std::int64_t end) {
    at::NoGradGuard no_grad;
    std::vector<std::uint16_t> half(static_cast<std::size_t>(kRows * width));
    std::vector<float> rows(half.size());
    for (auto chunk = begin; chunk < end; ++chunk) {
      const auto first = chunk * kRows, count = std::min(kRows, out - first);
      decode_rows(base, e, first, count, half.data(), rows.data());
      if (a.defined()) {
        vector_math::run_fastest<AddLowRank>(a.const_data_ptr<float>(), b.const_data_ptr<float>() + first * b.size(1),
                                             count, width, b.size(1), rows.data());
      }
      take(first, count, static_cast<const float*>(rows.data()));
    }
  });
}

/// The merge in bfloat16, to `result`, whose strides are given.
void round_merged(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name,
                  const at::Tensor& result, std::int64_t row_stride, std::int64_t column_stride) {
  auto* values = static_cast<std::uint16_t*>(result.data_ptr());
  // Without a pair every value lies on the grid, and any direction will do.
  const BalancedRounding rounding(pair.defined() ? pair.a[e] : at::empty({0, base.in_features()}));
  std::atomic<bool> is_finite = true;
  for_merged_rows(base, pair, e, [&](std::int64_t first, std::int64_t count, const float* rows) {
    if (!rounding.round(rows, count, values + first * row_stride, row_stride, column_stride)) is_finite = false;
  });
  check(is_finite, name);
}

}  // namespace

at::Tensor merged_blocks(const Mxfp4Tensor& base, const LowRank& pair, std::int64_t e, const std::string& name) {
  const at::Tensor before = base.blocks[e].contiguous(), scales = base.scales[e].contiguous();
  at::Tensor result = at::empty_like(before);
  const auto groups = scales.size(1);
  const auto* old = before.const_data_ptr<std::uint8_t>();
  const auto* exponents = scales.const_data_ptr<std::uint8_t>();
  auto* blocks = result.data_ptr<std::uint8_t>();
  std::atomic<bool> is_finite = true;
  for_merged_rows({base, {}}, pair, e, [&](std::int64_t first, std::int64_t count, const float* rows) {
    const auto block = first * groups;
    if (!mxfp4_recode(rows, exponents + block, old + block * kMxfp4BlockBytes, count * groups,
                      blocks + block * kMxfp4BlockBytes))
      is_finite = false;
  });
  check(is_finite, name);
  return result;
}

at::Tensor merged_transposed(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name) {
  at::Tensor result = at::empty({base.in_features(), base.out_features()}, at::kBFloat16);
  round_merged(base, pair, e, name, result, 1, base.out_features());
  return result;
}

at::Tensor merged_bfloat16(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name) {
  at::Tensor result = at::empty({base.out_features(), base.in_features()}, at::kBFloat16);
  round_merged(base, pair, e, name, result, base.in_features(), 1);
  return result;
}

at::Tensor stored_as(const at::Tensor& merged, const LowRank& pair, at::ScalarType dtype, const std::string& name) {
  at::Tensor result = dtype == at::kBFloat16 && pair.defined() ? balanced_bfloat16(merged, pair) : merged.to(dtype);
  check(result.isfinite().all().item<bool>(), name);
  return result;
}

}  // namespace ossature
