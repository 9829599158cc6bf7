// An expert's weight plus a low-rank delta, rounded back to MXFP4 so that the delta's effect is kept although it is far
// below the grid's step. The base's scales stay; only codes change. model/export/rounding_rows.h has the objective.
// Shapes: O output features, I input features, G = I / 32, r rank.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/export/input_moments.h"
#include "model/export/weight_rounding.h"
#include "model/kernels/mxfp4.h"
#include "model/layers/linear.h"

namespace ossature {

struct RoundedExpert {
  at::Tensor blocks;           // uint8 [O, G, 16]; the scales are the base's
  at::Tensor bias_correction;  // float32 [O]: to be added to the bias, it takes the mean of the outputs' error away
  RoundingGain gain;
};

/// Rounds expert `e` of `base` plus delta.scale * delta.b delta.a (a [r, I], b [O, r]) for inputs of these moments: H
/// is their covariance, as the bias takes the mean. Rows whose delta is zero keep their bytes. On all threads; no bit
/// depends on their number.
[[nodiscard]] RoundedExpert requantize(const Mxfp4Tensor& base, std::int64_t e, const LowRank& delta,
                                       const InputMoments& inputs, const RoundingSettings& settings = {});

}  // namespace ossature
