// Rounding to MXFP4 at scales that are given.
#pragma once

#include <cstdint>
#include <optional>

#include "model/kernels/mxfp4.h"

namespace ossature {

/// Nearest codes of 32 `num_blocks` float32 values at `scales` (uint8, one a block), packed as in mxfp4.h: ties to the
/// even code, values beyond 6 times a scale saturate. A code whose value is that of `before` keeps its bits, the sign
/// of zero too. Single threaded; by the fastest kernel unless another is given; all give the same bits. Returns whether
/// all values are finite.
[[nodiscard]] bool mxfp4_recode(const float* values, const std::uint8_t* scales, const std::uint8_t* before,
                                std::int64_t num_blocks, std::uint8_t* out,
                                std::optional<Mxfp4Kernel> kernel = std::nullopt);

}  // namespace ossature
