// A weight's rows rounded for given moments of its inputs, whatever the grid: what they share is made once, and blocks
// of rows are rounded on all threads. Shapes: O output features, I input features, r rank, R = kRoundedRows.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/export/rounding_rows.h"
#include "model/layers/linear.h"

namespace ossature {

/// What was added to the moments' diagonal, in units of its mean: 0.01 (GPTQ, arXiv 2210.17323, section 3.3).
inline constexpr double kRoundingDamping = 0.01;

/// How much of what was wanted a rounded weight realises: realised / wanted, sums over rows of (q - w0) H d^T and
/// d H d^T, is the gain along the delta, 1 at best; 0 where nothing moved.
struct RoundingGain {
  double realised = 0.0, wanted = 0.0;
};

/// A block of at most R rows, to be rounded.
struct WantedRows {
  at::Tensor wanted;          // float32 [count, I], w0 + d
  at::Tensor unrounded;       // float32 [count, I], what rows without a delta are to be
  std::vector<float> scales;  // [count, I / 32], steps of MXFP4's blocks; empty for bfloat16
};

class WeightRounder {
 public:
  /// For inputs of second moment `moment` [I, I] and mean [I], float32, and a delta scale b a of a [r, I], b [O, r].
  WeightRounder(const at::Tensor& moment, const at::Tensor& mean, const LowRank& delta, RoundingSettings settings);

  /// Rounds all rows, a block at a time on all threads: read(first row, count) gives a block, write(first row, that
  /// block, rounded [count, I], corrections of the bias [count]) takes it. No bit depends on the number of threads.
  [[nodiscard]] RoundingGain round(
      const std::function<WantedRows(std::int64_t, std::int64_t)>& read,
      const std::function<void(std::int64_t, const WantedRows&, const at::Tensor&, const float*)>& write) const;

 private:
  RoundingSettings settings_;
  at::Tensor order_, hessian_, factor_, factor_t_, pivots_, mean_, a_, a_h_, a_m_, b_;
};

}  // namespace ossature
