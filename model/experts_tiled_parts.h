// What experts_tiled.cpp and experts_tiled_backward.cpp share.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/ATen.h>

#include "model/bf16_tiles.h"
#include "model/experts_kernels.h"

namespace ossature::tiles {

/// Columns of a weight that a backward task takes: 64 packed bytes a row, a cache line.
inline constexpr std::int64_t kPanelColumns = 128;
/// Rows of a weight that are decoded as pairs at once, for a panel: 64 KiB.
inline constexpr std::int64_t kPanelRows = 256;
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

}  // namespace ossature::tiles
