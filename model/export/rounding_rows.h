// Rounding of a block of rows of a weight to a grid, so that what the rows' outputs lose is small. The grid is MXFP4's
// codes at given scales, or of each value the two of bfloat16 that lie next to it. Of one row q, with error e = q - w
// against the wanted row w = w0 + d:
//
//   J(q) = e H e^T + (kappa - 1) (e v^T)^2,   v = d H / sqrt(d H d^T)
//
// H is the second moment of the weight's inputs. The first term is the squared error of the output. The second holds
// what is realised of the delta, the part of q - w0 along d, to gain 1: the nearest values by the first term alone
// shrink it towards nothing, because a delta is far smaller than the grid's step, while a loss falls in proportion to
// that gain.
//
// Values are first rounded column by column with error feedback (GPTQ, arXiv 2210.17323, in the equal form of LDLQ,
// arXiv 2307.13304: H = M diag(p) M^T with M unit upper triangular needs no inverse), aiming at w0 + c d, of codes for
// several c, of bfloat16 for c = 1. Of these the best by J is taken, row by row, and then one value at a time moves to
// where J is least, until few do.
//
// Shapes: I input features, R = kRoundedRows rows of a block, r rank. Columns are in the order of Columns::order.
#pragma once

#include <cstdint>
#include <vector>

#include "model/export/rounding_kernels.h"

namespace ossature {

/// What all rows of a weight share.
struct RoundingColumns {
  std::int64_t count = 0;               // I, a multiple of 32
  const std::int64_t* order = nullptr;  // [I], the weight's column in each place
  const float* hessian = nullptr;       // [I, I], H
  const float* factor = nullptr;        // [I, I], M
  const float* factor_t = nullptr;      // its transpose
  const float* pivots = nullptr;        // [I], p
  const float* mean = nullptr;          // [I], of the inputs
  std::int64_t rank = 0;                // r
  const float* delta_a = nullptr;       // [r, I], A with the pair's scale: d = b A
  const float* delta_a_h = nullptr;     // [r, I], A H
  const float* delta_a_m = nullptr;     // [r, I], A M
};

/// How a row is rounded.
struct RoundingSettings {
  double kappa = 12.0;
  std::vector<double> overshoots = {1.0, 1.6, 2.5, 4.0};  // c of codes
  int max_sweeps = 4;
  double settled = 2e-4;  // share of a row's values: no further sweep when fewer moved
};

/// Rows of one expert, columns in the weight's own order, and where their results go.
struct RoundingRows {
  std::int64_t count = 0;            // at most R
  const float* wanted = nullptr;     // [count, I], w
  const float* scales = nullptr;     // [count, I / 32], steps of MXFP4's blocks; nullptr: bfloat16
  const float* delta_b = nullptr;    // [count, r]
  float* rounded = nullptr;          // [count, I], q; left as it is where d H d^T is zero, or not finite
  float* bias_correction = nullptr;  // [count], (w - q) mean; zero where nothing is rounded
  double* realised = nullptr;        // [count], (q - w0) H d^T; likewise
  double* wanted_gain = nullptr;     // [count], d H d^T
};

/// Buffers of a block of rows, to be used again for the next.
class RowRounder {
 public:
  RowRounder(const RoundingColumns& columns, const RoundingSettings& settings);
  /// Single-threaded; a row's result depends on nothing but the row.
  void round(const RoundingRows& rows);

 private:
  void read(const RoundingRows& rows);
  void feed_back(float overshoot);
  void take_better(float overshoot);
  void take_gradient();
  void descend(std::int64_t row);
  [[nodiscard]] bool is_rounded(std::int64_t row) const;
  void write(const RoundingRows& rows, std::int64_t row) const;

  const RoundingColumns& columns_;
  const RoundingSettings& settings_;
  std::int64_t size_;  // I
  // [R, I], row after row
  std::vector<float> wanted_, delta_, delta_h_, gradient_, rounded_;
  // [I, R], column after column
  std::vector<float> delta_h_t_, delta_m_t_, target_, error_, residual_, best_, best_residual_;
  bool is_codes_ = false;                        // otherwise bfloat16
  std::vector<float> scales_, scales_by_group_;  // [R, I / 32] and transposed; of codes
  std::vector<float> feedback_;                  // [kWidth, R]
  std::vector<float> row_scale_, row_inverse_scale_, row_curvature_, direction_;  // [I]
  std::vector<double> wanted_gain_;                                               // [R], d H d^T
  std::vector<float> best_cost_, best_overshoot_;                                 // [R]
};

}  // namespace ossature
