#include "model/vector_kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "model/vector_math.h"

namespace ossature::vectors {
namespace {

using vector_math::load;

constexpr std::int64_t kHalf = kGroup / 2;

/// Twice the value of each E2M1 code (OCP Microscaling Formats v1.0, section 5.3.3).
constexpr std::int8_t kDoubledValues[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

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
const Powers kPowers;

/// Rows and vectors whose products are formed at once: each weight decoded is used for several vectors, each value
/// loaded for several rows.
constexpr int kRowsAtOnce = 2, kVectorsAtOnce = 4;
/// The same of dense rows with a single vector: as many streams as memory serves best.
constexpr int kDenseRowsAtOnce = 4;

/// A few rows of weights, and where their products go.
struct DenseRows {
  const c10::BFloat16* weights;
  std::int64_t size;  // values a row
  float* sums;
  std::int64_t stride;  // of sums, from a row to the next
};
struct PackedRows {
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
          partial[t][j] += load(weights[2 * j]) * values[j] + load(weights[2 * j + 1]) * values[kHalf + j];
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
void packed_plain(const PackedRows& rows, const float* x) {
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

#if defined(__x86_64__)
#define OSSATURE_VECTORS_AVX2 __attribute__((target("avx2,fma")))
#define OSSATURE_VECTORS_AVX512 __attribute__((target("avx512f")))

/// Asks for the cache line that comes a while after byte `offset` of a row, which lies at `data`; after the row's end
/// that is in the row which takes its place, `rows` further. The processor's own prefetching stops at the end of each
/// page of 4 KiB, which is less than a row of bfloat16.
inline void prefetch_after(const void* data, std::int64_t offset, std::int64_t row_bytes, int rows) {
  constexpr std::int64_t kAhead = 2048;
  const std::int64_t beyond = offset + kAhead < row_bytes ? 0 : (rows - 1) * row_bytes;
  _mm_prefetch(static_cast<const char*>(data) + kAhead + beyond, _MM_HINT_T0);
}

/// The sum of a register's lanes.
OSSATURE_VECTORS_AVX2 inline float sum_of(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int R, int T>
OSSATURE_VECTORS_AVX2 void dense_avx2(const DenseRows& rows, const float* x) {
  const auto size = rows.size;
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  __m256 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps();
  }
  for (std::int64_t i = 0; i < size; i += kGroup) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) prefetch_after(rows.weights + r * size + i, 2 * i, 2 * size, R);
    for (std::int64_t j = 0; j < kHalf; j += 8) {
      __m256 even[R], odd[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.weights + r * size + i + 2 * j));
        even[r] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        odd[r] = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const float* values = x + t * size + i + j;
        const __m256 even_values = _mm256_loadu_ps(values), odd_values = _mm256_loadu_ps(values + kHalf);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          sums[r][t] = _mm256_fmadd_ps(even[r], even_values, sums[r][t]);
          sums[r][t] = _mm256_fmadd_ps(odd[r], odd_values, sums[r][t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

/// A group of codes as 16-bit integers, twice their values: those at even places and those at odd ones.
struct Integers {
  __m256i even, odd;
};
OSSATURE_VECTORS_AVX2 inline Integers decoded(const std::uint8_t* codes, __m128i table) {
  const __m128i nibble = _mm_set1_epi8(15);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return {_mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble))),
          _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble)))};
}

/// A group's product is exact in 32-bit integers: 4 products of at most 12 * 2^15 to a lane.
template <int R, int T>
OSSATURE_VECTORS_AVX2 void packed_avx2(const PackedRows& rows, const std::int16_t* x, const std::int16_t* exponents) {
  const auto size = rows.size, groups = rows.groups();
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kDoubledValues));
  __m256 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm256_setzero_ps();
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    Integers weights[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      weights[r] = decoded(rows.codes_of(r, g), table);
      if (g % 4 == 0) prefetch_after(rows.codes_of(r, g), g * kHalf, rows.groups() * kHalf, R);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const auto* values = reinterpret_cast<const __m256i*>(x + t * size + g * kGroup);
      const __m256i even = _mm256_loadu_si256(values), odd = _mm256_loadu_si256(values + 1);
      const int exponent = exponents[t * groups + g];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i exact =
            _mm256_add_epi32(_mm256_madd_epi16(weights[r].even, even), _mm256_madd_epi16(weights[r].odd, odd));
        const __m256 scale = _mm256_set1_ps(kPowers.of(rows.exponent_of(r, g) + exponent));
        sums[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), scale, sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

// The unmasked forms of some of these make g++ 12 warn of an undefined operand.
constexpr __mmask16 kAll = 0xffff;

OSSATURE_VECTORS_AVX512 inline float sum_of(__m512 v) {
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, v);
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <int R, int T>
OSSATURE_VECTORS_AVX512 void dense_avx512(const DenseRows& rows, const float* x) {
  const auto size = rows.size;
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < size; i += kGroup) {
    __m512 even[R], odd[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      prefetch_after(rows.weights + r * size + i, 2 * i, 2 * size, R);
      const __m512i pairs = _mm512_loadu_si512(rows.weights + r * size + i);
      even[r] = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, pairs, 16));
      odd[r] = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const float* values = x + t * size + i;
      const __m512 even_values = _mm512_loadu_ps(values), odd_values = _mm512_loadu_ps(values + kHalf);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        sums[r][t] = _mm512_fmadd_ps(even[r], even_values, sums[r][t]);
        sums[r][t] = _mm512_fmadd_ps(odd[r], odd_values, sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}

/// A look-up of 32-bit lanes reads only their lowest 4 bits, so a byte of two codes needs no mask.
template <int R, int T>
OSSATURE_VECTORS_AVX512 void packed_avx512(const PackedRows& rows, const float* x) {
  alignas(64) float entries[16];
  for (int code = 0; code < 16; ++code) entries[code] = kDoubledValues[code];
  const __m512 table = _mm512_load_ps(entries);
  __m512 sums[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  for (std::int64_t g = 0; g < rows.groups(); ++g) {
    __m512 even[R], odd[R], scale[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.codes_of(r, g)));
      const __m512i bytes = _mm512_maskz_cvtepu8_epi32(kAll, codes);
      even[r] = _mm512_maskz_permutexvar_ps(kAll, bytes, table);
      odd[r] = _mm512_maskz_permutexvar_ps(kAll, _mm512_maskz_srli_epi32(kAll, bytes, 4), table);
      scale[r] = _mm512_set1_ps(rows.scale_of(r, g));
      if (g % 4 == 0) prefetch_after(rows.codes_of(r, g), g * kHalf, rows.groups() * kHalf, R);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const float* values = x + t * rows.size + g * kGroup;
      const __m512 even_values = _mm512_loadu_ps(values), odd_values = _mm512_loadu_ps(values + kHalf);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512 group = _mm512_fmadd_ps(even[r], even_values, _mm512_maskz_mul_ps(kAll, odd[r], odd_values));
        sums[r][t] = _mm512_fmadd_ps(group, scale[r], sums[r][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) rows.sums[r * rows.stride + t] = sum_of(sums[r][t]);
  }
}
#endif

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
    PackedRows some{codes + row * groups * kHalf, scales + row * groups, size_, sums + row * count + vector, count};
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
