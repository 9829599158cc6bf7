// Some rows of one expert's weight in float32: as stored, and merged with a low-rank delta. Shapes: O output features,
// I input features, r rank.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint.h"
#include "model/layers/linear.h"

namespace ossature {

/// Rows `first` to `first` + `count` of expert `e`, float32 [count, I]. Single-threaded.
[[nodiscard]] at::Tensor decoded_rows(const ExpertWeight& base, std::int64_t e, std::int64_t first, std::int64_t count);

/// The same plus delta.scale * delta.b delta.a of a pair of this expert alone (a [r, I], b [O, r]), or as they are if
/// it is undefined. A row's bits depend on nothing but the row.
[[nodiscard]] at::Tensor merged_rows(const ExpertWeight& base, std::int64_t e, const LowRank& delta, std::int64_t first,
                                     std::int64_t count);

}  // namespace ossature
