// The 8-bit dynamic tree code of arXiv 1511.04561, block-wise as in arXiv 2110.02861, for the moments of AdamW. A block
// of 256 values shares its largest magnitude, in float32; a code says which part of that a value is. With n bits, the
// levels above 10^-(j+1) and up to 10^-j are 2^(n-1-j), evenly spaced, the last of them 10^-j: small parts have fewer
// levels, but each decade has some.
//
// First moment: a sign and 7 bits; 0, then levels from 1e-6 to 1 of the largest.
// Second moment: 8 bits for its square root, levels from 1e-8 to 1 of the largest's root. There is no zero: a second
// moment rounded to zero under a first that is not would make a step of m / epsilon. The paper codes the moment itself,
// whose range of seven decades is three and a half of gradients; the root has all eight.
//
// Rounding is stochastic: up with the probability that makes the expected moment the exact one. An average that
// moves by a thousandth a step, as the second moment with beta2 = 0.999, never leaves its level if rounded to nearest.
// The error is below one step between levels: 0.9 * 10^-j / 2^(n-1-j) of the largest in decade j, of the moment for the
// first and of its root for the second; below 1e-6 (first) one of 1e-6, below 1e-8 (second) it becomes 1e-8.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace ossature::dynamic_code {

inline constexpr int kBlock = 256;

struct Levels {
  std::array<float, 256> first;   // of the largest magnitude, by code; codes from 128 on are negative
  std::array<float, 257> second;  // of the largest moment: squares of the levels of the root; the last is no code's
};
[[nodiscard]] const Levels& levels();

/// 10^-j.
inline constexpr std::array<double, 9> kPowers = {1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8};

/// Where `part`, >= 0, lies among the levels of an n-bit code: a real number, of which the levels' numbers are the
/// integers. Linear in each decade, ever flatter with the part, hence the least of the decades' lines.
template <int n, bool with_zero, int j = 0>
inline __attribute__((always_inline)) float place_of(float part) {
  constexpr double kCount = 1 << (n - 1 - j);
  constexpr double kWidth = with_zero && j == n - 1 ? 1.0 : 0.9;  // the lowest decade of a code with a zero reaches it
  constexpr auto kUpper = static_cast<float>(kPowers[j]), kTop = static_cast<float>(2.0 * kCount - 1.0),
                 kLevelsInOne = static_cast<float>(kCount / (kWidth * kPowers[j]));
  const float place = kTop - (kUpper - part) * kLevelsInOne;
  if constexpr (j + 1 < n) {
    const float lower = place_of<n, with_zero, j + 1>(part);
    return lower < place ? lower : place;
  }
  return place;
}

/// The code of a first moment that is `part` of the block's largest magnitude, |part| <= 1, given a random number,
/// uniform in (0, 1).
inline __attribute__((always_inline)) std::int32_t encode_first(float part, float random) {
  const auto bits = std::bit_cast<std::uint32_t>(part);
  const auto level = static_cast<std::int32_t>(place_of<7, true>(std::bit_cast<float>(bits & 0x7fffffffu)) + random);
  return (level < 127 ? level : 127) | static_cast<std::int32_t>((bits >> 24) & 0x80u);
}

/// The number of the level below `root`, the square root of a second moment's part of the block's largest.
inline __attribute__((always_inline)) std::int32_t level_below(float root) {
  const float place = place_of<8, false>(root);
  return static_cast<std::int32_t>(place > 0.0f ? place : 0.0f);
}

/// The code of a second moment that is `part` of the block's largest, 0 <= part <= 1, with `below` that level for it.
/// `second`: levels().second.
inline __attribute__((always_inline)) std::int32_t encode_second(float part, std::int32_t below, float random,
                                                                 const float* second) {
  const float share = (part - second[below]) / (second[below + 1] - second[below]);
  const std::int32_t level = below + (random < share ? 1 : 0);
  return level < 255 ? level : 255;
}

}  // namespace ossature::dynamic_code
