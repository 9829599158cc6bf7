// Base weight + scale * B A, in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/checkpoint.h"
#include "model/lora.h"

namespace ossature {

/// The merged weight [O, I] of a projection that is not an expert's, float32. `base` as stored.
[[nodiscard]] at::Tensor merge(const at::Tensor& base, const LowRank& pair);

/// The merged weight [O, I] of expert `e`, float32.
[[nodiscard]] at::Tensor merge_expert(const ExpertWeight& base, const LowRank& pair, std::int64_t e);

}  // namespace ossature
