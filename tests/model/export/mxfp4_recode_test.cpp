// Rounding at given scales against a search over the codes.
#include "model/export/mxfp4_recode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace ossature {
namespace {

constexpr float kMagnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

/// The nearest code, of two that are equally near the even one; the old code where the value is zero before and after.
int expected(float value, int scale, int before) {
  int nearest = 0;
  double least = std::numeric_limits<double>::infinity();
  for (int code = 0; code < 8; ++code) {
    const double distance = std::abs(std::abs(static_cast<double>(value)) -
                                     std::ldexp(static_cast<double>(kMagnitudes[code]), scale - 127));
    if (distance < least || (distance == least && code % 2 == 0)) {
      least = distance;
      nearest = code;
    }
  }
  if (nearest == 0 && (before & 7) == 0) return before;
  return nearest | (std::signbit(value) ? 8 : 0);
}

struct Blocks {
  std::vector<float> values;
  std::vector<std::uint8_t> scales, before;
};

/// All scales, values near every code, on and beside every halfway point, and far beyond the largest.
Blocks blocks() {
  std::mt19937 random(1);
  Blocks made;
  for (int scale = 0; scale <= kMxfp4MaxScale; ++scale) {
    made.scales.push_back(static_cast<std::uint8_t>(scale));
    for (int i = 0; i < 32; ++i) {
      const double at = i < 16 ? std::uniform_real_distribution<double>(-7.5, 7.5)(random)
                               : static_cast<double>(static_cast<int>(random() % 33) - 16) / 4.0;
      double value = std::ldexp(at, scale - 127);
      if (i % 5 == 0) value = std::nextafter(static_cast<float>(value), 0.0f);
      if (i == 31) value = std::ldexp(random() % 2 == 0 ? -1.0 : 1.0, std::min(scale - 127 + 20, 127));
      made.values.push_back(static_cast<float>(value));
    }
    for (int i = 0; i < 16; ++i) made.before.push_back(static_cast<std::uint8_t>(random() % 3 == 0 ? 0x80 : random()));
  }
  return made;
}

TEST(Mxfp4Recode, TakesTheNearestCodeAndKeepsZeros) {
  const Blocks made = blocks();
  const auto count = static_cast<std::int64_t>(made.scales.size());
  for (const Mxfp4Kernel kernel : mxfp4_kernels()) {
    std::vector<std::uint8_t> out(made.before.size());
    ASSERT_TRUE(mxfp4_recode(made.values.data(), made.scales.data(), made.before.data(), count, out.data(), kernel));
    for (std::size_t i = 0; i < made.values.size(); ++i) {
      const int shift = i % 2 == 0 ? 0 : 4, scale = made.scales[i / 32];
      EXPECT_EQ(out[i / 2] >> shift & 15, expected(made.values[i], scale, made.before[i / 2] >> shift & 15))
          << made.values[i] << " at scale " << scale << ", kernel " << static_cast<int>(kernel);
    }
  }
}

TEST(Mxfp4Recode, ValuesOfTheGridComeBackToTheBit) {
  std::vector<std::uint8_t> before(256 * 16), out(before.size()), scales(256);
  for (std::size_t i = 0; i < before.size(); ++i) before[i] = static_cast<std::uint8_t>(i % 256);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<std::uint8_t>(i % (kMxfp4MaxScale + 1));
  std::vector<float> values;
  for (std::size_t i = 0; i < before.size(); ++i) {
    for (const int code : {before[i] & 15, before[i] >> 4}) {
      const float value = std::ldexp(kMagnitudes[code & 7], scales[i / 16] - 127);
      values.push_back((code & 8) != 0 ? -value : value);
    }
  }
  for (const Mxfp4Kernel kernel : mxfp4_kernels()) {
    ASSERT_TRUE(mxfp4_recode(values.data(), scales.data(), before.data(), 256, out.data(), kernel));
    EXPECT_EQ(out, before);
  }
}

TEST(Mxfp4Recode, TellsValuesThatAreNotFinite) {
  for (const Mxfp4Kernel kernel : mxfp4_kernels()) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const std::size_t where : {std::size_t{0}, std::size_t{17}, std::size_t{63}}) {
        std::vector<float> values(64, 1.0f);
        const std::vector<std::uint8_t> scales(2, 127), before(32, 0);
        std::vector<std::uint8_t> out(32);
        values[where] = bad;
        EXPECT_FALSE(mxfp4_recode(values.data(), scales.data(), before.data(), 2, out.data(), kernel)) << bad << where;
      }
    }
  }
}

}  // namespace
}  // namespace ossature
