// Attention by tiles: the arithmetic between its matrix products, on a tile of scores that lies in a core's cache. Rows
// are pairs of a query and a head that share their keys, columns are keys. Exponentials are powers of two, to a
// relative 3e-6, which bfloat16 does not see. Internal to model/.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model/kernels/bf16_tiles.h"

namespace ossature::tiles {

/// The columns of a tile that a row may see.
struct Visible {
  std::int64_t own;     // the column of row 0's own token; may lie outside of the tile
  std::int64_t group;   // rows of a token
  std::int64_t window;  // tokens that a token sees, itself included
  std::int64_t first;   // the tile's first row

  [[nodiscard]] std::int64_t end(std::int64_t row, std::int64_t columns) const {
    return std::clamp<std::int64_t>(own + (first + row) / group + 1, 0, columns);
  }
  [[nodiscard]] std::int64_t begin(std::int64_t row, std::int64_t columns) const {
    return std::clamp<std::int64_t>(own + (first + row) / group + 1 - window, 0, columns);
  }
};

/// Where a row's softmax stands, in units of log 2: weights so far are 2^(score - top), and their sum is `sum`.
struct RunningSoftmax {
  float* top;
  float* sum;
};

/// One more tile for `rows` running softmaxes: scores [rows, columns] times `scale` (log2(e) in it); columns a multiple
/// of 32. The weights go to `weights` [rows, columns], zero where not visible (null: all are). Where a row's top must
/// rise, `out` [rows, head_dim], the sum of weighted values so far, is scaled down. A top stays while it is exceeded by
/// no more than a factor of 2^8, which costs no precision and saves nearly all of the scaling.
void softmax_tile(const float* scores, std::int64_t rows, std::int64_t columns, float scale, const Visible* visible,
                  RunningSoftmax softmax, float* out, std::int64_t head_dim, BFloat16* weights);

/// out [rows, head_dim] over its softmaxes' sums [rows], rounded.
void divide_by_sum(const float* out, std::int64_t rows, std::int64_t head_dim, const float* sum, BFloat16* to);

/// What a row's gradient needs beside the tile.
struct RowConstants {
  const float* lse;    // of the softmax, in units of log 2
  const float* delta;  // <gradient of the output, output>, times the scale of the scores
};

/// weights = 2^(scores * log2_scale - lse), gradients of q.k = weights * (grad_weights * scale - delta): all [rows,
/// columns], rows even, columns a multiple of 32; both zero where not visible. `pairs` is the [rows, columns] operand
/// in pairs order, of the weights and of the gradients, which also go to `gradients` as they lie.
void gradient_tile(const float* scores, const float* grad_weights, std::int64_t rows, std::int64_t columns,
                   float log2_scale, float scale, const Visible* visible, RowConstants constants,
                   BFloat16* weight_pairs, BFloat16* gradients, BFloat16* gradient_pairs);

/// <a, b>, size a multiple of 16.
[[nodiscard]] float inner_product(const BFloat16* a, const BFloat16* b, std::int64_t size);

/// [k / 2, width] pairs to their k rows of `width` values, a multiple of 16: the transposed of what was packed.
void unpack_pairs(const BFloat16* pairs, std::int64_t k, std::int64_t width, BFloat16* rows);

}  // namespace ossature::tiles
