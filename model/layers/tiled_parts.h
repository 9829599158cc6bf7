// What the layers that work tile by tile share (experts_tiled*.cpp, linear_tiled.cpp): low-rank pairs as the tiles take
// them, and sums over tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include "model/kernels/bf16_tiles.h"
#include "model/kernels/mxfp4.h"
#include "model/layers/linear.h"

namespace ossature::tiles {

/// Columns of a weight that a backward task takes: 64 packed bytes a row, a cache line.
inline constexpr std::int64_t kPanelColumns = 128;
/// Rows and columns of a weight that are one operand in pairs order of a backward product, 64 KiB. Products read
/// narrow operands faster (of AMX, 64 columns and 512 rows against 128 and 256: 1.2 to 1.6 times).
inline constexpr std::int64_t kPanelRows = 512;
inline constexpr std::int64_t kStripColumns = 64;
/// Rows of activations of one product, and what the last one's number is rounded up to (kSpareRows).
inline constexpr std::int64_t kProductRows = 64;
/// Tokens over which a product with a low-rank gradient is summed at once.
inline constexpr std::int64_t kSumTokens = 32;

inline std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/// The rank as pairs order needs it.
inline std::int64_t even(std::int64_t rank) {
  return round_up(rank, 2);
}

/// A packed weight's expert as the decoders take it.
struct PackedExpert {
  const std::uint8_t* blocks;
  const std::uint8_t* scales;
  std::int64_t num_blocks;  // a row

  PackedExpert(const Mxfp4Tensor& weight, std::int64_t e)
      : blocks(weight.blocks.const_data_ptr<std::uint8_t>() +
               e * weight.out_features() * weight.blocks.size(2) * kMxfp4BlockBytes),
        scales(weight.scales.const_data_ptr<std::uint8_t>() + e * weight.out_features() * weight.blocks.size(2)),
        num_blocks(weight.blocks.size(2)) {}
};

/// A pair of all experts in bfloat16: a [E, R, in], b [E, out, R], R the rank made even with zeros.
struct PairTensors {
  at::Tensor a, b;
  std::int64_t rank = 0;  // R; 0: no pair
  float scale = 1.0f;
  double dropout = 0.0;

  PairTensors(const at::Tensor& a_wide, const at::Tensor& b_wide, const LowRank& pair) {
    if (!a_wide.defined()) return;
    const auto missing = a_wide.size(1) % 2;
    rank = a_wide.size(1) + missing;
    a = at::constant_pad_nd(a_wide.detach(), {0, 0, 0, missing}).to(at::kBFloat16).contiguous();
    b = at::constant_pad_nd(b_wide.detach(), {0, missing}).to(at::kBFloat16).contiguous();
    scale = static_cast<float>(pair.scale);
    dropout = pair.dropout;
  }
  [[nodiscard]] const BFloat16* a_of(std::int64_t e) const {
    return a.const_data_ptr<BFloat16>() + e * a.size(1) * a.size(2);
  }
  [[nodiscard]] const BFloat16* b_of(std::int64_t e) const {
    return b.const_data_ptr<BFloat16>() + e * b.size(1) * b.size(2);
  }
};

inline const BFloat16* data_of(const at::Tensor& t) {
  return t.const_data_ptr<BFloat16>();
}

/// to[j] += from[j], j < size.
void add_row(const float* from, std::int64_t size, float* to);
/// from[j] rounded to to[j], j < size.
void round_row(const float* from, std::int64_t size, BFloat16* to);

/// Applies the mask to `rows` rows of a panel, `width` apart, whose columns begin at `column` of `features`.
template <typename T>
void drop_panel(T* panel, std::int64_t rows, std::int64_t width, std::int64_t column, std::int64_t features,
                const DropoutMask& mask) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t j = 0; j < width; ++j) {
      T& value = panel[row * width + j];
      value = static_cast<float>(value) * mask.factor(static_cast<std::uint64_t>(row * features + column + j));
    }
  }
}

/// Tokens' coefficients of one projection's pair, one row a rank: [R, tokens made whole] for each group of tokens
/// (those of an expert), zeros past its tokens; and the products with them.
class TokenSums {
 public:
  /// Tokens of group g are offsets[g] .. offsets[g + 1]; coefficient k of token n is value(n, k).
  template <typename Value>
  TokenSums(const std::vector<std::int64_t>& offsets, std::int64_t rank, const Value& value) : rank_(rank) {
    starts_.push_back(0);
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      starts_.push_back(starts_.back() + round_up(offsets[g + 1] - offsets[g], kSumTokens));
    }
    values_ = at::zeros({rank * starts_.back()}, at::kBFloat16);
    auto* values = values_.data_ptr<BFloat16>();
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      const auto padded = starts_[g + 1] - starts_[g];
      for (auto n = offsets[g]; n < offsets[g + 1]; ++n) {
        for (std::int64_t k = 0; k < rank; ++k) {
          values[starts_[g] * rank + k * padded + (n - offsets[g])] = value(n, k);
        }
      }
    }
  }

  /// out [R, width] = coefficients of group `g` times its `count` rows of `values` (row stride `stride`). `pairs` is
  /// scratch of kSumTokens * width values.
  void sum(std::int64_t g, const BFloat16* values, std::int64_t stride, std::int64_t count, std::int64_t width,
           BFloat16* pairs, float* out) const;

 private:
  std::int64_t rank_;
  std::vector<std::int64_t> starts_;
  at::Tensor values_;
};

}  // namespace ossature::tiles
