// The inner loops of rounding rows to a grid (model/export/rounding_rows.h), compiled for several kinds of processor.
// Shapes: I input features in the order of rounding, R rows.
#pragma once

#include <cstdint>

namespace ossature {

inline constexpr std::int64_t kRoundedRows = 128;  // R

/// MXFP4's codes, of some columns that are rounded together and of one row.
struct CodesByColumn {
  const float* const* scales;  // [columns][R]
};
struct CodesOfRow {
  const float* scale;  // [I], and its inverse
  const float* inverse_scale;
};
/// The two values of bfloat16 next to each wanted one: the column's target, or the row's.
struct NeighboursByColumn {};
struct NeighboursOfRow {
  const float* wanted;  // [I]
};

/// One row on its way down.
struct Descent {
  std::int64_t size;
  const float* hessian;    // [I, I]
  const float* curvature;  // [I], 1 / (H_jj + boost v_j^2)
  const float* direction;  // [I], v
  float boost;             // kappa - 1
  float* rounded;          // [I], q
  float* gradient;         // [I], (q - w) H
  double along;            // (q - w) v^T
};

struct RoundingKernels {
  /// Rounds `width` columns of all rows, feeding each one's error to those after it. `factor` points to M's square of
  /// these columns (row stride `stride`); feedback [width, R] holds what came from earlier columns. target [width, R]
  /// becomes the rounded values, error target - rounded, residual what feedback did not cancel.
  void (*round_codes)(std::int64_t width, const float* factor, std::int64_t stride, const CodesByColumn& grid,
                      float* feedback, float* target, float* error, float* residual);
  void (*round_neighbours)(std::int64_t width, const float* factor, std::int64_t stride, const NeighboursByColumn& grid,
                           float* feedback, float* target, float* error, float* residual);
  /// Adds up over columns what J of each row is made of, with q - w = (c - 1) d - error for target w0 + c d and
  /// `beyond` = c - 1: squares += p ((c - 1) d M - residual)^2 and along += -error H d^T. All [columns, R].
  void (*add_costs)(std::int64_t columns, float beyond, const float* pivots, const float* delta_m, const float* delta_h,
                    const float* error, const float* residual, float* squares, float* along);
  /// to = from in the rows where `take` has all bits set. Both [columns, R].
  void (*take_rows)(std::int64_t columns, const std::uint32_t* take, const float* from, float* to);
  /// One sweep over a row's columns. Returns how many values moved.
  std::int64_t (*descend_codes)(Descent& row, const CodesOfRow& grid);
  std::int64_t (*descend_neighbours)(Descent& row, const NeighboursOfRow& grid);
};

/// Those for this processor.
[[nodiscard]] const RoundingKernels& rounding_kernels();

}  // namespace ossature
