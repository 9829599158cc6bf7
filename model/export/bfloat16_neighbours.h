// The two values of bfloat16 between which a float32 value lies.
#pragma once

#include <bit>
#include <cstdint>

#include "model/kernels/vector_math.h"

namespace ossature {

/// As bits of float32. Values of bfloat16 have themselves on both sides.
struct Bfloat16Neighbours {
  std::uint32_t lower, upper;  // by magnitude; the upper of the largest finite value is infinite
};

OSSATURE_INLINE Bfloat16Neighbours bfloat16_neighbours(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t lower = bits & 0xffff0000u;
  return {lower, lower + ((bits & 0xffffu) != 0u ? 0x10000u : 0u)};
}

/// Of bits of float32: finite values have magnitudes below kInfinityBits.
inline constexpr std::uint32_t kInfinityBits = 0x7f800000, kMagnitudeBits = 0x7fffffff;

}  // namespace ossature
