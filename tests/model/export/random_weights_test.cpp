// Random weights from a counter: parts agree with the whole, and MXFP4 is what encoding a normal distribution gives.
#include "model/export/random_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include <ATen/ATen.h>

namespace ossature {
namespace {

constexpr double kDeviation = 0.02;

template <typename T, typename Make>
std::vector<T> drawn(std::size_t count, const Make& make) {
  std::vector<T> values(count);
  make(std::span<T>(values));
  return values;
}

std::vector<std::uint16_t> normal(const RandomWeights& random, const char* name, std::int64_t first,
                                  std::size_t count) {
  return drawn<std::uint16_t>(count, [&](auto values) { random.normal(name, first, values); });
}
std::vector<std::uint8_t> blocks(const RandomWeights& random, const char* name, std::int64_t first, std::size_t count) {
  return drawn<std::uint8_t>(count * 16, [&](auto values) { random.mxfp4_blocks(name, first, values); });
}
std::vector<std::uint8_t> scales(const RandomWeights& random, const char* name, std::int64_t first, std::size_t count) {
  return drawn<std::uint8_t>(count, [&](auto values) { random.mxfp4_scales(name, first, values); });
}

template <typename T>
std::vector<T> part(const std::vector<T>& values, std::size_t first, std::size_t count) {
  return {values.begin() + static_cast<std::ptrdiff_t>(first),
          values.begin() + static_cast<std::ptrdiff_t>(first + count)};
}

TEST(RandomWeights, PartsAreThoseOfTheWhole) {
  const RandomWeights random(5, kDeviation);
  const auto values = normal(random, "w", 0, 100'003);
  const auto packed = blocks(random, "w", 0, 50'001), exponents = scales(random, "w", 0, 50'001);
  for (const std::size_t first : {std::size_t{0}, std::size_t{4}, std::size_t{65'536}, std::size_t{99'000}}) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{1003}}) {
      EXPECT_EQ(normal(random, "w", static_cast<std::int64_t>(first), count), part(values, first, count));
      const std::size_t block = first / 2;
      EXPECT_EQ(blocks(random, "w", static_cast<std::int64_t>(block), count / 2),
                part(packed, 16 * block, 16 * (count / 2)));
      EXPECT_EQ(scales(random, "w", static_cast<std::int64_t>(block), count / 2), part(exponents, block, count / 2));
    }
  }
}

TEST(RandomWeights, SeedAndNameDecide) {
  const RandomWeights random(5, kDeviation), same(5, kDeviation), other(6, kDeviation);
  EXPECT_EQ(normal(random, "w", 0, 1000), normal(same, "w", 0, 1000));
  EXPECT_NE(normal(random, "w", 0, 1000), normal(other, "w", 0, 1000));
  EXPECT_NE(normal(random, "w", 0, 1000), normal(random, "v", 0, 1000));
  EXPECT_EQ(blocks(random, "w", 0, 100), blocks(same, "w", 0, 100));
  EXPECT_NE(blocks(random, "w", 0, 100), blocks(other, "w", 0, 100));
  EXPECT_NE(blocks(random, "w", 0, 100), blocks(random, "v", 0, 100));
}

/// Shares of values below some bounds, against the normal distribution's: within five standard errors.
TEST(RandomWeights, ValuesAreNormal) {
  const RandomWeights random(5, kDeviation);
  const auto bits = normal(random, "w", 0, 1 << 20);
  std::vector<double> values;
  for (const std::uint16_t b : bits)
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16) / kDeviation);
  const double count = static_cast<double>(values.size());
  // Bounds in the middle between two bfloat16 values would be exact; elsewhere a step of 2^-8 blurs them.
  for (const double bound : {-3.0, -2.0, -1.0, -0.5, 0.1, 0.7, 1.5, 2.5}) {
    const double expected = 0.5 * std::erfc(-bound / std::sqrt(2.0));
    const double found =
        static_cast<double>(std::count_if(values.begin(), values.end(), [&](double v) { return v < bound; })) / count;
    const double blur = std::abs(bound) / 256.0 * std::exp(-bound * bound / 2.0) / std::sqrt(2.0 * 3.14159265);
    EXPECT_NEAR(found, expected, 5.0 * std::sqrt(expected * (1.0 - expected) / count) + blur) << bound;
  }
  const auto [least, largest] = std::minmax_element(values.begin(), values.end());
  EXPECT_LT(*largest, 4.4);
  EXPECT_GT(*least, -4.4);
  // Neighbours know nothing of each other.
  double product = 0.0;
  for (std::size_t i = 1; i < values.size(); ++i) product += values[i] * values[i - 1];
  EXPECT_LT(std::abs(product / count), 5.0 / std::sqrt(count));
}

TEST(RandomWeights, BlocksAreWhatEncodingGives) {
  const RandomWeights random(5, kDeviation);
  constexpr std::int64_t kCount = 1 << 15;
  auto packed = blocks(random, "w", 0, kCount), exponents = scales(random, "w", 0, kCount);
  const Mxfp4Tensor weight{at::from_blob(packed.data(), {1, kCount, 1, 16}, at::kByte),
                           at::from_blob(exponents.data(), {1, kCount, 1}, at::kByte)};
  const at::Tensor values = mxfp4_decode(weight, at::kFloat);
  at::manual_seed(1);
  const at::Tensor judged = mxfp4_round(at::randn({1, kCount, 32}) * kDeviation);
  const Mxfp4Tensor judge = mxfp4_encode(at::randn({1, kCount, 32}) * kDeviation);
  // The same scales in the same shares, the same variance, both signs alike.
  for (const int scale : {117, 118, 119, 120}) {
    const double found = (weight.scales == scale).to(at::kDouble).mean().item<double>();
    const double expected = (judge.scales == scale).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(found, expected, 0.02) << scale;
  }
  EXPECT_NEAR(values.std().item<double>() / judged.std().item<double>(), 1.0, 0.01);
  EXPECT_NEAR((values > 0).to(at::kDouble).mean().item<double>(), (values < 0).to(at::kDouble).mean().item<double>(),
              0.005);
  EXPECT_LT(exponents.empty() ? 255 : *std::max_element(exponents.begin(), exponents.end()), kMxfp4MaxScale);
  // Decoded and encoded again nothing changes: every block is on the grid as an encoder would put it.
  EXPECT_TRUE(at::equal(mxfp4_round(values), values));
}

}  // namespace
}  // namespace ossature
