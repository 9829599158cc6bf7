// Products of weights with one or a few vectors, for decoding token by token, where reading the weights is all that
// takes time: a row of weights is decoded in registers and multiplied at once. Free of LibTorch's tensors.
// Shapes: T vectors of I values, I a multiple of 32.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/util/BFloat16.h>

namespace ossature::vectors {

/// Values that lie together: those of an MXFP4 block.
inline constexpr std::int64_t kGroup = 32;

/// Ways to compute; they differ in the order of their sums.
enum class Kernel { kPlain, kAvx2, kAvx512 };
/// Those that this processor has, the fastest first.
[[nodiscard]] std::vector<Kernel> kernels();

/// Whether products with MXFP4 are wanted too, and of values with no more digits than bfloat16's or of others.
enum class Packed { kNone, kNarrow, kWide };

/// Vectors in the order that the kernels read: of each group first the values at even places and then those at odd
/// ones, as they lie in a byte of two codes and in a word of two bfloat16 values.
class Vectors {
 public:
  /// `x` [T, I] row-major.
  Vectors(const float* x, std::int64_t count, std::int64_t size, Packed packed, Kernel kernel);

  [[nodiscard]] std::int64_t count() const { return count_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] Kernel kernel() const { return kernel_; }

  /// sums[r][t] = <row r, x[first + t]> for r < rows and t < count; `weights` [rows, I]. Safe from several threads.
  void multiply(const c10::BFloat16* weights, std::int64_t rows, std::int64_t first, std::int64_t count,
                float* sums) const;
  /// The same with MXFP4: codes [rows, I / 32, 16] and scales [rows, I / 32] up to kMxfp4MaxScale.
  void multiply(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows, std::int64_t first,
                std::int64_t count, float* sums) const;

 private:
  std::int64_t count_, size_;
  Kernel kernel_;
  std::vector<float> values_;  // [T, I]
  // For AVX2, whose products of integers are the faster ones: each group as 16-bit integers times a power of two,
  // an error of at most 2^-15 of its largest value; of wide vectors a second plane has what is left.
  std::int64_t planes_;
  std::vector<std::int16_t> integers_;   // [T, planes, I]
  std::vector<std::int16_t> exponents_;  // [T, planes, I / 32]
};

}  // namespace ossature::vectors
