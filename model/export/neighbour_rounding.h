// An expert's weight plus a low-rank delta, rounded to bfloat16 for what its inputs are on calibration data: each value
// is one of the two next to the exact one, chosen as model/export/rounding_rows.h says. Which, is a bit a value.
// Shapes: O output features, I input features, r rank.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint.h"
#include "model/export/input_moments.h"
#include "model/export/weight_rounding.h"
#include "model/layers/linear.h"

namespace ossature {

struct RoundedToNeighbours {
  at::Tensor
      upper;  // uint8 [O, I / 8]: bit j % 8 of byte j / 8 is set where column j takes the value of larger magnitude
  RoundingGain gain;
};

/// Rounds expert `e` of `base` plus delta.scale * delta.b delta.a (a [r, I], b [O, r]) for inputs of these moments: H
/// is their second moment about zero, so no bias has a mean to take. On all threads; no bit depends on their number.
[[nodiscard]] RoundedToNeighbours round_to_neighbours(const ExpertWeight& base, std::int64_t e, const LowRank& delta,
                                                      const InputMoments& inputs,
                                                      const RoundingSettings& settings = {});

/// The bfloat16 bits that `upper` [count, I / 8] chooses for rows [count, I] of float32, in their order. Returns
/// whether all are finite.
[[nodiscard]] bool take_neighbours(const float* rows, const std::uint8_t* upper, std::int64_t count,
                                   std::int64_t columns, std::uint16_t* out);

}  // namespace ossature
