#include "model/layers/tiled_parts.h"

#include "model/kernels/vector_math.h"

namespace ossature::tiles {

namespace {

struct AddRow {
  OSSATURE_INLINE static void run(const float* from, std::int64_t size, float* to) {
#pragma omp simd
    for (std::int64_t j = 0; j < size; ++j) to[j] += from[j];
  }
};

struct RoundRow {
  OSSATURE_INLINE static void run(const float* from, std::int64_t size, BFloat16* to) {
#pragma omp simd
    for (std::int64_t j = 0; j < size; ++j) vector_math::store(from[j], to + j);
  }
};

}  // namespace

void add_row(const float* from, std::int64_t size, float* to) {
  vector_math::run_fastest<AddRow>(from, size, to);
}

void round_row(const float* from, std::int64_t size, BFloat16* to) {
  vector_math::run_fastest<RoundRow>(from, size, to);
}

void TokenSums::sum(std::int64_t g, const BFloat16* values, std::int64_t stride, std::int64_t count, std::int64_t width,
                    BFloat16* pairs, float* out) const {
  const auto start = starts_[static_cast<std::size_t>(g)];
  const auto padded = starts_[static_cast<std::size_t>(g) + 1] - start;
  const BFloat16* coefficients = data_of(values_) + start * rank_;
  for (std::int64_t row = 0; row < count; row += kSumTokens) {
    pack_row_pairs(values + row * stride, stride, std::min(kSumTokens, count - row), kSumTokens, width, pairs);
    multiply(rank_, width, kSumTokens, coefficients + row, padded, pairs, out, width, row > 0);
  }
}

}  // namespace ossature::tiles
