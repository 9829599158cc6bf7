// Frobenius norms of weights as they are stored; MXFP4 is not decoded for it.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint.h"

namespace ossature {

/// Of a dense weight of any shape, summed in float64.
[[nodiscard]] double weight_norm(const at::Tensor& weight);

/// Of expert `e`.
[[nodiscard]] double weight_norm(const ExpertWeight& weight, std::int64_t e);

}  // namespace ossature
