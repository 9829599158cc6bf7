// The singular value decomposition of scale * B A, which is never formed: thin QR of B and of A^T, then the
// decomposition of the small core R_B R_A^T. Float64. Shapes: I input features, O output features, r rank,
// k = min(r, I, O).
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/layers/linear.h"

namespace ossature {

/// scale * B A = U diag(sigma) V^T.
struct LowRankSvd {
  at::Tensor u;               // [O, k] float64, orthonormal columns
  std::vector<double> sigma;  // k values, descending; 0 where they are no more than the rounding error of the core
  at::Tensor v;               // [I, k] float64, orthonormal columns
};

/// Of one matrix: `pair` has a [r, I] and b [O, r], float32 CPU. Single threaded.
[[nodiscard]] LowRankSvd low_rank_svd(const LowRank& pair);

/// sigma alone, in a fraction of the time.
[[nodiscard]] std::vector<double> singular_values(const LowRank& pair);

/// The best approximation of rank `k` (Eckart and Young), as PEFT's add_weighted_adapter writes it: b = U diag(sigma)
/// [O, k], a = V^T [k, I], scale 1; float32. Zero columns and rows where there are fewer than `k` singular values.
[[nodiscard]] LowRank truncated(const LowRankSvd& svd, std::int64_t k);

/// sum of the products of corresponding elements of scale * B A of two pairs of equal O and I.
[[nodiscard]] double inner_product(const LowRank& left, const LowRank& right);

}  // namespace ossature
