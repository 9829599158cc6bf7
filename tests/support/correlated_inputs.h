// Inputs of a weight as calibration sees them: unequal and correlated features, with a mean.
#pragma once

#include <cmath>
#include <cstdint>

#include <ATen/ATen.h>

#include "model/export/input_moments.h"

namespace ossature::testing {

/// Moments of 4 I random tokens of I features.
inline InputMoments correlated_inputs(std::int64_t in) {
  const at::Tensor x = at::mm(at::randn({4 * in, in}), at::randn({in, in}) / std::sqrt(in)) +
                       at::randn({4 * in, in}) * at::rand({in}) * 2.0 + at::randn({in});
  const at::Tensor mean = x.mean(0);
  return {at::mm((x - mean).t(), x - mean) / x.size(0), mean};
}

}  // namespace ossature::testing
