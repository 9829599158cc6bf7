// The codes against their definition by decades, and the rounding's bounds and expectation.
#include "train/optimizer/dynamic_code.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace ossature::dynamic_code {
namespace {

/// Levels in ascending order, without zero: decade j from the top has 2^(n-1-j), evenly spaced over its upper 90 %.
std::vector<double> levels_by_decades(int n) {
  std::vector<double> found;
  for (int j = n - 1; j >= 0; --j) {
    const int count = 1 << (n - 1 - j);
    for (int i = 1; i <= count; ++i) found.push_back(std::pow(10.0, -j) * (0.1 + 0.9 * i / count));
  }
  return found;
}
/// The step between levels at `part` of a code of n bits.
double step_at(double part, int n, bool with_zero) {
  for (int j = 0; j < n; ++j) {
    if (part <= std::pow(10.0, -(j + 1)) && j + 1 < n) continue;
    return (with_zero && j == n - 1 ? 1.0 : 0.9) * std::pow(10.0, -j) / (1 << (n - 1 - j));
  }
  return 0.0;
}
/// Parts of all sizes.
std::vector<float> parts(double smallest) {
  std::vector<float> found = {1.0f, 0.1f, 0.01f, 0.5f};
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(std::log(smallest), 0.0);
  for (int i = 0; i < 3000; ++i) found.push_back(static_cast<float>(std::exp(exponent(random))));
  return found;
}
float second_of(float part, float random) {
  const Levels& known = levels();
  return known
      .second[static_cast<std::size_t>(encode_second(part, level_below(std::sqrt(part)), random, known.second.data()))];
}
float first_of(float part, float random) {
  return levels().first[static_cast<std::size_t>(encode_first(part, random))];
}

TEST(DynamicCode, LevelsAreTheDecades) {
  const std::vector<double> first = levels_by_decades(7), root = levels_by_decades(8);
  ASSERT_EQ(first.size(), 127u);
  ASSERT_EQ(root.size(), 255u);
  EXPECT_EQ(levels().first[0], 0.0f);
  for (std::size_t i = 0; i < 127; ++i) {
    EXPECT_NEAR(levels().first[i + 1] / first[i], 1.0, 1e-6);
    EXPECT_EQ(levels().first[i + 129], -levels().first[i + 1]);
  }
  EXPECT_EQ(levels().first[127], 1.0f);
  EXPECT_NEAR(levels().second[0], 1e-16, 1e-22);
  for (std::size_t i = 0; i < 255; ++i) EXPECT_NEAR(levels().second[i + 1] / (root[i] * root[i]), 1.0, 1e-6);
  EXPECT_EQ(levels().second[255], 1.0f);
}

TEST(DynamicCode, ALevelKeepsItsCode) {
  for (std::int32_t code = 0; code < 256; ++code) {
    const float first = levels().first[static_cast<std::size_t>(code)];
    const float second = levels().second[static_cast<std::size_t>(code)];
    EXPECT_EQ(encode_first(first, 0.5f), code);
    EXPECT_EQ(second_of(second, 0.5f), second) << code;
  }
  for (const float random : {0.00001f, 0.99999f}) {  // the largest never moves
    EXPECT_EQ(first_of(1.0f, random), 1.0f);
    EXPECT_EQ(first_of(-1.0f, random), -1.0f);
    EXPECT_EQ(first_of(0.0f, random), 0.0f);
    EXPECT_EQ(second_of(1.0f, random), 1.0f);
  }
}

TEST(DynamicCode, ErrorIsBelowAStep) {
  for (const float part : parts(1e-9)) {
    const double step = step_at(part, 7, true);
    for (const float random : {0.00001f, 0.3f, 0.7f, 0.99999f}) {
      EXPECT_LT(std::abs(first_of(part, random) - part), step * 1.0001) << part;
      EXPECT_EQ(first_of(-part, random), -first_of(part, random));
    }
  }
  for (const float root : parts(1e-8)) {
    const double step = step_at(root, 8, false);
    for (const float random : {0.00001f, 0.3f, 0.7f, 0.99999f}) {
      EXPECT_LT(std::abs(std::sqrt(second_of(root * root, random)) - root), step * 1.0001) << root;
    }
  }
}

// A second moment that became zero under a first one that did not would make a step of m / epsilon.
TEST(DynamicCode, ASecondMomentIsNeverZero) {
  for (const float part : {0.0f, 1e-40f, 1e-30f, 1e-17f}) {
    for (const float random : {0.00001f, 0.99999f}) EXPECT_EQ(second_of(part, random), levels().second[0]) << part;
  }
}

TEST(DynamicCode, ExpectedMomentIsTheExactOne) {
  constexpr int kDraws = 4096;
  const auto mean = [](auto&& decoded) {
    double sum = 0.0;
    for (int i = 0; i < kDraws; ++i) sum += decoded((static_cast<float>(i) + 0.5f) / kDraws);
    return sum / kDraws;
  };
  for (const float part : parts(1e-9)) {
    const double tolerance = step_at(part, 7, true) / kDraws + 1e-6 * part;
    EXPECT_NEAR(mean([&](float random) { return first_of(part, random); }), part, tolerance) << part;
  }
  for (const float root : parts(1e-8)) {
    const float part = root * root;
    const double step = step_at(root, 8, false);
    const double tolerance = (2.0 * root + step) * step / kDraws + 1e-6 * part;
    EXPECT_NEAR(mean([&](float random) { return second_of(part, random); }), part, tolerance) << part;
  }
}

}  // namespace
}  // namespace ossature::dynamic_code
