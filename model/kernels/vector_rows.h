// Rows of weights as the kernels of vector_kernels.cpp take them, and the kernels for any processor: products of R rows
// with T vectors, both constants. Internal to model/.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "model/kernels/vector_kernels.h"
#include "model/kernels/vector_math.h"

namespace ossature::vectors {

inline constexpr std::int64_t kHalf = kGroup / 2;

/// Twice the value of each E2M1 code (OCP Microscaling Formats v1.0, section 5.3.3).
inline constexpr std::int8_t kDoubledValues[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// Powers of two by a look-up, which takes the place of a product in the innermost loop.
class Powers {
 public:
  /// An exponent whose every power is NaN.
  static constexpr int kNotFinite = 400;

  Powers() {
    powers_.fill(std::numeric_limits<float>::quiet_NaN());
    for (int exponent = -kLeast; exponent < kNotFinite; ++exponent) {
      powers_[static_cast<std::size_t>(exponent + kLeast)] = std::ldexp(1.0f, exponent - 128);
    }
  }
  /// Half of what a scale byte s stands for, times 2^e, as of(s + e): e of a group of floats, or kNotFinite.
  [[nodiscard]] float of(int exponent) const { return powers_[static_cast<std::size_t>(exponent + kLeast)]; }

 private:
  static constexpr int kLeast = 192;  // the least float is 2^-149
  std::array<float, kLeast + kNotFinite + 256> powers_;
};
inline const Powers kPowers;

/// A few rows of weights, and where their products go.
struct DenseRows {
  const c10::BFloat16* weights;
  std::int64_t size;  // values a row
  float* sums;
  std::int64_t stride;  // of sums, from a row to the next
};
struct Mxfp4Rows {
  const std::uint8_t* codes;
  const std::uint8_t* scales;
  std::int64_t size;
  float* sums;
  std::int64_t stride;

  [[nodiscard]] std::int64_t groups() const { return size / kGroup; }
  [[nodiscard]] const std::uint8_t* codes_of(int r, std::int64_t g) const { return codes + (r * groups() + g) * kHalf; }
  [[nodiscard]] int exponent_of(int r, std::int64_t g) const { return scales[r * groups() + g]; }
  [[nodiscard]] float scale_of(int r, std::int64_t g) const { return kPowers.of(exponent_of(r, g)); }
};

template <int R, int T>
void dense_plain(const DenseRows& rows, const float* x) {
  const auto size = rows.size;
  for (int r = 0; r < R; ++r) {
    float partial[T][kHalf] = {};
    for (std::int64_t i = 0; i < size; i += kGroup) {
      const c10::BFloat16* weights = rows.weights + r * size + i;
      for (int t = 0; t < T; ++t) {
        const float* values = x + t * size + i;
#pragma omp simd
        for (std::int64_t j = 0; j < kHalf; ++j) {
          partial[t][j] +=
              vector_math::load(weights[2 * j]) * values[j] + vector_math::load(weights[2 * j + 1]) * values[kHalf + j];
        }
      }
    }
    for (int t = 0; t < T; ++t) {
      float& sum = rows.sums[r * rows.stride + t] = 0.0f;
      for (std::int64_t j = 0; j < kHalf; ++j) sum += partial[t][j];
    }
  }
}

template <int R, int T>
void packed_plain(const Mxfp4Rows& rows, const float* x) {
  for (int r = 0; r < R; ++r) {
    float* sums = rows.sums + r * rows.stride;
    for (int t = 0; t < T; ++t) sums[t] = 0.0f;
    for (std::int64_t g = 0; g < rows.groups(); ++g) {
      const std::uint8_t* codes = rows.codes_of(r, g);
      float even[kHalf], odd[kHalf];
      for (std::int64_t j = 0; j < kHalf; ++j) {
        even[j] = kDoubledValues[codes[j] & 15];
        odd[j] = kDoubledValues[codes[j] >> 4];
      }
      for (int t = 0; t < T; ++t) {
        const float* values = x + t * rows.size + g * kGroup;
        float group = 0.0f;
#pragma omp simd reduction(+ : group)
        for (std::int64_t j = 0; j < kHalf; ++j) group += even[j] * values[j] + odd[j] * values[kHalf + j];
        sums[t] += rows.scale_of(r, g) * group;
      }
    }
  }
}

}  // namespace ossature::vectors
