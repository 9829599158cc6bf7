#include "model/kernels/vector_kernels.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "model/kernels/vector_rows.h"
#include "model/kernels/vector_rows_x86.h"

namespace ossature::vectors {
namespace {

/// Rows and vectors whose products are formed at once: each weight decoded is used for several vectors, each value
/// loaded for several rows.
constexpr int kRowsAtOnce = 2, kVectorsAtOnce = 4;
/// The same of dense rows with a single vector: as many streams as memory serves best.
constexpr int kDenseRowsAtOnce = 4;

template <int N>
using Number = std::integral_constant<int, N>;

/// Calls visit(R, T, row, t) with R and T as constants until all pairs of a row < rows and a vector t < count are
/// visited; a single vector goes with `Rows` rows at once.
template <int Rows, typename Visit>
void in_pieces(std::int64_t rows, std::int64_t count, const Visit& visit) {
  const auto vectors = [&](auto at_once, std::int64_t row) {
    std::int64_t t = 0;
    for (; t + kVectorsAtOnce <= count; t += kVectorsAtOnce) visit(at_once, Number<kVectorsAtOnce>(), row, t);
    if (count - t == 1) visit(at_once, Number<1>(), row, t);
    if (count - t == 2) visit(at_once, Number<2>(), row, t);
    if (count - t == 3) visit(at_once, Number<3>(), row, t);
  };
  std::int64_t row = 0;
  if (count == 1) {
    for (; row + Rows <= rows; row += Rows) visit(Number<Rows>(), Number<1>(), row, std::int64_t{0});
  }
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) vectors(Number<kRowsAtOnce>(), row);
  if (row < rows) vectors(Number<1>(), row);
}

/// `values` as integers times 2 to the result's power; they become what is left.
std::int16_t to_integers(float* values, std::int16_t* integers) {
  float largest = 0.0f, none = 0.0f;
  for (std::int64_t j = 0; j < kGroup; ++j) {
    largest = std::max(largest, std::abs(values[j]));
    none += 0.0f * values[j];  // NaN if a value is not finite
  }
  if (largest == 0.0f || none != 0.0f) {
    std::fill_n(integers, kGroup, std::int16_t{0});
    return none != 0.0f ? Powers::kNotFinite : 0;
  }
  const int exponent = std::ilogb(largest) - 14;  // the largest integer in 2^14 .. 2^15
  const double unit = std::ldexp(1.0, exponent), scale = 1.0 / unit;
  for (std::int64_t j = 0; j < kGroup; ++j) {
    integers[j] = static_cast<std::int16_t>(std::min(std::lrint(values[j] * scale), 32767L));
    values[j] = static_cast<float>(values[j] - integers[j] * unit);
  }
  return static_cast<std::int16_t>(exponent);
}

}  // namespace

std::vector<Kernel> kernels() {
  std::vector<Kernel> found;
#if defined(__x86_64__)
  if (instructions() >= Instructions::kAvx512) found.push_back(Kernel::kAvx512);
  if (instructions() >= Instructions::kAvx2) found.push_back(Kernel::kAvx2);
#endif
  found.push_back(Kernel::kPlain);
  return found;
}

Vectors::Vectors(const float* x, std::int64_t count, std::int64_t size, Packed packed, Kernel kernel)
    : count_(count),
      size_(size),
      kernel_(kernel),
      values_(static_cast<std::size_t>(count * size)),
      planes_(kernel == Kernel::kAvx2 ? static_cast<std::int64_t>(packed) : 0),
      integers_(static_cast<std::size_t>(count * planes_ * size)),
      exponents_(static_cast<std::size_t>(count * planes_ * size / kGroup)) {
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t i = 0; i < size; i += kGroup) {
      float* group = values_.data() + t * size + i;
      for (std::int64_t j = 0; j < kHalf; ++j) {
        group[j] = x[t * size + i + 2 * j];
        group[kHalf + j] = x[t * size + i + 2 * j + 1];
      }
      float left[kGroup];
      std::copy_n(group, kGroup, left);
      for (std::int64_t p = 0; p < planes_; ++p) {
        const auto row = t * planes_ + p;
        exponents_[static_cast<std::size_t>((row * size + i) / kGroup)] =
            to_integers(left, integers_.data() + row * size + i);
      }
    }
  }
}

void Vectors::multiply(const c10::BFloat16* weights, std::int64_t rows, std::int64_t first, std::int64_t count,
                       float* sums) const {
  in_pieces<kDenseRowsAtOnce>(rows, count, [&](auto r, auto t, std::int64_t row, std::int64_t vector) {
    const float* x = values_.data() + (first + vector) * size_;
    const DenseRows some{weights + row * size_, size_, sums + row * count + vector, count};
    switch (kernel_) {
#if defined(__x86_64__)
      case Kernel::kAvx512:
        return dense_avx512<r, t>(some, x);
      case Kernel::kAvx2:
        return dense_avx2<r, t>(some, x);
#endif
      default:
        return dense_plain<r, t>(some, x);
    }
  });
}

void Vectors::multiply(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows, std::int64_t first,
                       std::int64_t count, float* sums) const {
  const auto groups = size_ / kGroup;
  in_pieces<kRowsAtOnce>(rows, count, [&](auto r, auto t, std::int64_t row, std::int64_t vector) {
    Mxfp4Rows some{codes + row * groups * kHalf, scales + row * groups, size_, sums + row * count + vector, count};
    switch (kernel_) {
#if defined(__x86_64__)
      case Kernel::kAvx512:
        return packed_avx512<r, t>(some, values_.data() + (first + vector) * size_);
      case Kernel::kAvx2: {
        const auto plane = (first + vector) * planes_;
        const std::int16_t* x = integers_.data() + plane * size_;
        const std::int16_t* exponents = exponents_.data() + plane * groups;
        if (planes_ == 1) return packed_avx2<r, t>(some, x, exponents);
        float of_planes[2 * r * t];
        some.sums = of_planes;
        some.stride = 2 * t;
        packed_avx2<r, 2 * t>(some, x, exponents);
        for (std::int64_t n = 0; n < r; ++n) {
          for (std::int64_t v = 0; v < t; ++v) {
            const float* planes = of_planes + (n * t + v) * 2;
            sums[(row + n) * count + vector + v] = planes[0] + planes[1];
          }
        }
        return;
      }
#endif
      default:
        return packed_plain<r, t>(some, values_.data() + (first + vector) * size_);
    }
  });
}

}  // namespace ossature::vectors
