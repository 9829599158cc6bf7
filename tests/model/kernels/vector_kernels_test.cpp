// Products of rows with a few vectors by each kernel of this processor, against float64 sums.
#include "model/kernels/vector_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace ossature::vectors {
namespace {

constexpr std::int64_t kRows = 7, kSize = 3 * kGroup;
constexpr double kCodes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};

struct Data {
  std::vector<float> x;
  std::vector<c10::BFloat16> dense;
  std::vector<std::uint8_t> codes, scales;

  Data(std::int64_t count, bool wide) {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    const auto size = static_cast<std::size_t>(kSize), rows = static_cast<std::size_t>(kRows);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count) * size; ++i) {
      // Groups of very different sizes, outliers within them, and one of zeros.
      const float value = normal(generator) * std::exp2(static_cast<float>(i / 32 % 7) * 4.0f - 12.0f);
      const float spread = i % 29 == 0 ? 50.0f * value : value;
      x.push_back(i / 32 % 5 == 4 ? 0.0f : wide ? spread : static_cast<float>(c10::BFloat16(spread)));
    }
    for (std::size_t i = 0; i < rows * size; ++i) dense.emplace_back(normal(generator));
    for (std::size_t i = 0; i < rows * size / 2; ++i) codes.push_back(static_cast<std::uint8_t>(generator()));
    for (std::size_t i = 0; i < rows * size / 32; ++i)
      scales.push_back(static_cast<std::uint8_t>(120 + generator() % 8));
  }
  [[nodiscard]] double weight(bool packed, std::int64_t r, std::int64_t i) const {
    const auto n = static_cast<std::size_t>(r * kSize + i);
    if (!packed) return static_cast<double>(static_cast<float>(dense[n]));
    return std::ldexp(kCodes[n % 2 == 0 ? codes[n / 2] & 15 : codes[n / 2] >> 4], scales[n / 32] - 127);
  }
};

/// Every sum within rounding of the sum of its terms' magnitudes; with `in_integers`, its vectors' values within 2^-15
/// of their group's largest.
void expect_sums(const Data& data, const Vectors& vectors, std::int64_t first, std::int64_t count, bool packed,
                 bool in_integers) {
  std::vector<float> sums(static_cast<std::size_t>(kRows * count), -1.0f);
  if (packed) {
    vectors.multiply(data.codes.data(), data.scales.data(), kRows, first, count, sums.data());
  } else {
    vectors.multiply(data.dense.data(), kRows, first, count, sums.data());
  }
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t t = 0; t < count; ++t) {
      double expected = 0.0, tolerance = 0.0;
      for (std::int64_t i = 0; i < kSize; ++i) {
        const float* x = data.x.data() + (first + t) * kSize;
        const float* group = x + i / kGroup * kGroup;
        const double weight = data.weight(packed, r, i), term = weight * static_cast<double>(x[i]);
        expected += term;
        tolerance += 1e-6 * std::abs(term);
        if (!in_integers) continue;
        const auto [least, most] = std::minmax_element(group, group + kGroup);
        tolerance += std::abs(weight) * static_cast<double>(std::max(-*least, *most)) / 32767;
      }
      EXPECT_NEAR(sums[static_cast<std::size_t>(r * count + t)], expected, tolerance)
          << "kernel " << static_cast<int>(vectors.kernel()) << (packed ? " packed" : " dense") << " row " << r
          << " vector " << first + t << " of " << vectors.count();
    }
  }
}

TEST(VectorKernels, AnyNumberOfVectors) {
  for (const Kernel kernel : kernels()) {
    for (const bool wide : {false, true}) {
      for (const std::int64_t count : {1, 2, 3, 4, 5, 15}) {
        const Data data(count, wide);
        const Vectors vectors(data.x.data(), count, kSize, wide ? Packed::kWide : Packed::kNarrow, kernel);
        expect_sums(data, vectors, 0, count, false, false);
        expect_sums(data, vectors, 0, count, true, kernel == Kernel::kAvx2 && !wide);
      }
    }
  }
}

TEST(VectorKernels, PartOfTheVectors) {
  const Data data(9, false);
  for (const Kernel kernel : kernels()) {
    const Vectors vectors(data.x.data(), 9, kSize, Packed::kNarrow, kernel);
    expect_sums(data, vectors, 3, 5, false, false);
    expect_sums(data, vectors, 3, 5, true, kernel == Kernel::kAvx2);
  }
}

TEST(VectorKernels, WhatIsNotFiniteShows) {
  Data data(2, false);
  data.x[40] = std::numeric_limits<float>::infinity();
  data.x[static_cast<std::size_t>(kSize) + 2] = std::numeric_limits<float>::quiet_NaN();
  std::fill(data.codes.begin(), data.codes.end(), std::uint8_t{0x22});
  for (const Kernel kernel : kernels()) {
    const Vectors vectors(data.x.data(), 2, kSize, Packed::kNarrow, kernel);
    std::vector<float> sums(2 * static_cast<std::size_t>(kRows));
    vectors.multiply(data.codes.data(), data.scales.data(), kRows, 0, 2, sums.data());
    for (const float sum : sums) EXPECT_FALSE(std::isfinite(sum)) << "kernel " << static_cast<int>(kernel);
  }
}

TEST(VectorKernels, ThePlainOneIsAlwaysThere) {
  EXPECT_EQ(kernels().back(), Kernel::kPlain);
}

}  // namespace
}  // namespace ossature::vectors
