// Rounding to bfloat16 that keeps what an adapter adds. A merged weight w0 + d lies between two values of bfloat16's
// grid, and the nearest is the base's own wherever d is less than half a step, which is 0.2 to 0.4 % of the weight: of
// a small delta much is lost, and all of the loss has one direction. Here each row takes the lower or the upper value,
// column by column, so that the errors cancel where the adapter looks, along the rows of A:
//
//   e_j = argmin |s + e q_j|^2 + lambda e^2,   s = sum of e_i q_i over the columns before,   q_j a column of Q
//
// Q [r, I] are A's rows made orthonormal. It is a sigma-delta modulator of r dimensions: s stays of the size of one
// step. Then columns are gone through once more, each choosing anew, with s the sum over all others, which takes away
// most of what was left. So of q = w0 + d + e the gain along d = b A, 1 + (e A^T) b^T / |d|^2, is 1, whatever the
// inputs are, and each value is still one of the two next to the exact one. Values on the grid stay. Needs no data.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ossature {

class BalancedRounding {
 public:
  /// a [r, I], float32; linearly dependent rows count once. Depends on no number of threads.
  explicit BalancedRounding(const at::Tensor& a);

  /// How results lie: by rows the value of row o and column i is out[o * stride + i], by columns out[i * stride + o].
  enum class Order { kRows, kColumns };

  /// Rounds `count` rows [count, I] of float32, one after the other in memory, to bfloat16 bits. A row's result depends
  /// on nothing but the row. Returns whether all values are finite in bfloat16. Single-threaded.
  [[nodiscard]] bool round(const float* rows, std::int64_t count, Order order, std::uint16_t* out,
                           std::int64_t stride) const;

 private:
  std::int64_t columns_;
  std::int64_t rank_ = 0;      // of Q
  std::vector<float> basis_;   // [I, r], Q^T
  std::vector<float> square_;  // [I], |q_j|^2
  float nearest_ = 0.0f;       // lambda
};

}  // namespace ossature
