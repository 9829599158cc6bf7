#include "model/export/requantize_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/native/CPUBlas.h>

#include "model/kernels/mxfp4.h"
#include "model/kernels/transpose.h"
#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

using namespace vector_math;

constexpr std::int64_t kRows = kRoundedRows;
constexpr std::int64_t kWidth = 64;  // columns that are rounded between two products
constexpr std::int64_t kLanes = 16;  // codes that are looked at together

/// The E2M1 value nearest to x, ties to the even code, beyond 6 to 6: adding 1.5 * 2^23 steps to a number leaves a
/// whole number of steps, and the step is half of the number's binade, but at least 0.5.
OSSATURE_INLINE float snap(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const float size = std::bit_cast<float>(bits & 0x7fffffffu);
  const float kept = size < 6.0f ? size : 6.0f;
  const float normal = kept > 1.0f ? kept : 1.0f;
  const float shift = std::bit_cast<float>(std::bit_cast<std::uint32_t>(normal) & 0x7f800000u) * 6291456.0f;
  const float value = (kept + shift) - shift;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | (bits & 0x80000000u));
}

/// Rounds `width` columns of all rows, feeding each one's error to those after it. `factor` points to M's square of
/// these columns (row stride `stride`); feedback [width, R] holds what came from earlier columns. target [width, R]
/// becomes the rounded values, error target - rounded, residual what feedback did not cancel.
OSSATURE_INLINE void round_columns(std::int64_t width, const float* factor, std::int64_t stride,
                                   const float* const* scales, float* feedback, float* target, float* error,
                                   float* residual) {
  for (std::int64_t k = 0; k < width; ++k) {
    float* sum = feedback + k * kRows;
    for (std::int64_t j = 0; j < k; ++j) {
      const float weight = factor[j * stride + k];
      const float* from = error + j * kRows;
#pragma omp simd
      for (std::int64_t r = 0; r < kRows; ++r) sum[r] += weight * from[r];
    }
    const float* scale = scales[k];
    float *x = target + k * kRows, *e = error + k * kRows, *left = residual + k * kRows;
#pragma omp simd
    for (std::int64_t r = 0; r < kRows; ++r) {
      const float wanted = x[r] + sum[r];
      const float q = snap(wanted / scale[r]) * scale[r];
      e[r] = x[r] - q;
      left[r] = wanted - q;
      x[r] = q;
    }
  }
}

/// Adds up over columns what J of each row is made of, with q - w = (c - 1) d - error for target w0 + c d:
/// squares += p ((c - 1) d M - residual)^2 and along += -error H d^T. All [columns, R].
OSSATURE_INLINE void add_costs(std::int64_t columns, float beyond, const float* pivots, const float* delta_m,
                               const float* delta_h, const float* error, const float* residual, float* squares,
                               float* along) {
  for (std::int64_t k = 0; k < columns; ++k) {
    const std::int64_t at = k * kRows;
    const float pivot = pivots[k];
#pragma omp simd
    for (std::int64_t r = 0; r < kRows; ++r) {
      const float left = beyond * delta_m[at + r] - residual[at + r];
      squares[r] += pivot * left * left;
      along[r] -= error[at + r] * delta_h[at + r];
    }
  }
}

/// to = from in the rows where `take` has all bits set. All [columns, R].
OSSATURE_INLINE void take_rows(std::int64_t columns, const std::uint32_t* take, const float* from, float* to) {
  for (std::int64_t k = 0; k < columns; ++k) {
#pragma omp simd
    for (std::int64_t r = 0; r < kRows; ++r) {
      const std::int64_t at = k * kRows + r;
      to[at] = std::bit_cast<float>((std::bit_cast<std::uint32_t>(from[at]) & take[r]) |
                                    (std::bit_cast<std::uint32_t>(to[at]) & ~take[r]));
    }
  }
}

/// One row on its way down.
struct Descent {
  std::int64_t size;
  const float* hessian;  // [I, I]
  const float* scale;    // [I], and its inverse
  const float* inverse_scale;
  const float* curvature;  // [I], 1 / (H_jj + boost v_j^2)
  const float* direction;  // [I], v
  float boost;             // kappa - 1
  float* codes;            // [I], q
  float* gradient;         // [I], (q - w) H
  double along;            // (q - w) v^T
};

/// One sweep over the columns. Returns how many codes moved.
OSSATURE_INLINE std::int64_t sweep(Descent& row) {
  std::int64_t moved = 0;
  for (std::int64_t first = 0; first < row.size; first += kLanes) {
    std::int64_t from = 0;
    while (from < kLanes) {
      const float pull = row.boost * static_cast<float>(row.along);
      alignas(64) float steps[kLanes];
      unsigned any = 0;
#pragma omp simd reduction(| : any)
      for (std::int64_t i = 0; i < kLanes; ++i) {
        const std::int64_t j = first + i;
        const float q = row.codes[j];
        const float t = q - (row.gradient[j] + pull * row.direction[j]) * row.curvature[j];
        steps[i] = snap(t * row.inverse_scale[j]) * row.scale[j] - q;
        any |= steps[i] != 0.0f ? 1u : 0u;
      }
      if (any == 0) break;
      while (from < kLanes && steps[from] == 0.0f) ++from;
      if (from == kLanes) break;
      const std::int64_t j = first + from;
      const float step = steps[from];
      const float* column = row.hessian + j * row.size;
#pragma omp simd
      for (std::int64_t k = 0; k < row.size; ++k) row.gradient[k] += step * column[k];
      row.along += static_cast<double>(step) * row.direction[j];
      row.codes[j] += step;
      ++moved;
      ++from;
    }
  }
  return moved;
}

/// The kernels, compiled for a kind of processor.
struct Kernels {
  void (*round)(std::int64_t, const float*, std::int64_t, const float* const*, float*, float*, float*, float*);
  void (*add)(std::int64_t, float, const float*, const float*, const float*, const float*, const float*, float*,
              float*);
  void (*take)(std::int64_t, const std::uint32_t*, const float*, float*);
  std::int64_t (*descend)(Descent&);
};

#define OSSATURE_KERNELS(SUFFIX, TARGET)                                                                               \
  TARGET void round_##SUFFIX(std::int64_t width, const float* factor, std::int64_t stride, const float* const* scales, \
                             float* feedback, float* target, float* error, float* residual) {                          \
    round_columns(width, factor, stride, scales, feedback, target, error, residual);                                   \
  }                                                                                                                    \
  TARGET void add_##SUFFIX(std::int64_t columns, float beyond, const float* pivots, const float* delta_m,              \
                           const float* delta_h, const float* error, const float* residual, float* squares,            \
                           float* along) {                                                                             \
    add_costs(columns, beyond, pivots, delta_m, delta_h, error, residual, squares, along);                             \
  }                                                                                                                    \
  TARGET void take_##SUFFIX(std::int64_t columns, const std::uint32_t* take, const float* from, float* to) {           \
    take_rows(columns, take, from, to);                                                                                \
  }                                                                                                                    \
  TARGET std::int64_t descend_##SUFFIX(Descent& row) {                                                                 \
    return sweep(row);                                                                                                 \
  }                                                                                                                    \
  constexpr Kernels kernels_##SUFFIX = {round_##SUFFIX, add_##SUFFIX, take_##SUFFIX, descend_##SUFFIX};

OSSATURE_KERNELS(wide, OSSATURE_WIDE)
OSSATURE_KERNELS(avx2, OSSATURE_AVX2)
OSSATURE_KERNELS(plain, [[gnu::noinline]])
#undef OSSATURE_KERNELS

const Kernels& kernels() {
  static const Kernels* const chosen = fastest(&kernels_wide, &kernels_avx2, &kernels_plain);
  return *chosen;
}

/// c [m, n] = a [m, k] b [k, n], row-major, on the calling thread. The library's product reads operands as they lie:
/// where second-level caches are small, as with AVX2 alone, it gets so much of them at a time that they stay in it.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda, const float* b,
              std::int64_t ldb, float* c, std::int64_t ldc) {
  constexpr std::int64_t kDepth = 128;  // 64 KiB of b; 256 is a tenth slower, all at once less than half as fast
  const auto depth = is_wide() ? k : kDepth;
  for (std::int64_t first = 0; first < k; first += depth) {
    at::native::cpublas::brgemm(m, n, std::min(depth, k - first), lda, ldb, ldc, /*add_C=*/first > 0, a + first,
                                b + first * ldb, c, /*is_vnni=*/false);
  }
}

double dot(const float* a, const float* b, std::int64_t size) {
  double sum = 0.0;
  for (std::int64_t j = 0; j < size; ++j) sum += static_cast<double>(a[j]) * b[j];
  return sum;
}

/// The code of an E2M1 value, without its sign.
std::uint8_t code_of(float size) {
  return static_cast<std::uint8_t>((size > 0.25f) + (size > 0.75f) + (size > 1.25f) + (size > 1.75f) + (size > 2.5f) +
                                   (size > 3.5f) + (size > 5.0f));
}

}  // namespace

RowRounder::RowRounder(const RoundingColumns& columns, const RoundingSettings& settings)
    : columns_(columns), settings_(settings), size_(columns.count) {
  const auto values = static_cast<std::size_t>(kRows * size_), row = static_cast<std::size_t>(size_);
  for (auto* each : {&base_, &delta_, &delta_h_, &gradient_, &codes_, &delta_h_t_, &delta_m_t_, &target_, &error_,
                     &residual_, &best_codes_, &best_residual_}) {
    each->resize(values);
  }
  for (auto* each : {&scales_, &scales_by_group_}) each->resize(values / kMxfp4BlockSize);
  feedback_.resize(static_cast<std::size_t>(kWidth * kRows));
  for (auto* each : {&row_scale_, &row_inverse_scale_, &row_curvature_, &direction_}) each->resize(row);
  wanted_.resize(kRows);
  for (auto* each : {&best_cost_, &best_overshoot_}) each->resize(kRows);
  decoded_.resize(row);
}

void RowRounder::round(const RoundingRows& rows) {
  read(rows);
  std::fill(best_cost_.begin(), best_cost_.end(), std::numeric_limits<float>::infinity());
  for (const double overshoot : settings_.overshoots) {
    feed_back(static_cast<float>(overshoot));
    take_better(static_cast<float>(overshoot));
  }
  take_gradient();
  for (std::int64_t row = 0; row < rows.count; ++row) {
    if (std::isfinite(best_cost_[static_cast<std::size_t>(row)])) descend(row);
    write(rows, row);
  }
}

/// Rows past the end are zeros of scale 1: they cost time, and nobody looks at them.
void RowRounder::read(const RoundingRows& rows) {
  const auto num_groups = size_ / kMxfp4BlockSize;
  std::fill(base_.begin(), base_.end(), 0.0f);
  std::fill(scales_.begin(), scales_.end(), 1.0f);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    mxfp4_decode_rows(rows.blocks, rows.scales, row, 1, num_groups, decoded_.data());
    float* base = base_.data() + row * size_;
    for (std::int64_t j = 0; j < size_; ++j) {
      base[j] =
          std::bit_cast<float>(static_cast<std::uint32_t>(decoded_[static_cast<std::size_t>(columns_.order[j])]) << 16);
    }
    for (std::int64_t g = 0; g < num_groups; ++g) {
      scales_[static_cast<std::size_t>(row * num_groups + g)] =
          std::ldexp(1.0f, rows.scales[row * num_groups + g] - 127);
    }
  }
  transpose(scales_.data(), kRows, num_groups, scales_by_group_.data());
  const auto rank = columns_.rank;
  const auto expand = [&](const float* a, std::vector<float>& out) {
    std::fill(out.begin(), out.end(), 0.0f);
    multiply(rows.count, size_, rank, rows.delta_b, rank, a, size_, out.data(), size_);
  };
  expand(columns_.delta_a_m, delta_);
  transpose(delta_.data(), kRows, size_, delta_m_t_.data());
  expand(columns_.delta_a, delta_);
  expand(columns_.delta_a_h, delta_h_);
  transpose(delta_h_.data(), kRows, size_, delta_h_t_.data());
  for (std::int64_t row = 0; row < kRows; ++row) {
    wanted_[static_cast<std::size_t>(row)] = dot(delta_.data() + row * size_, delta_h_.data() + row * size_, size_);
  }
}

void RowRounder::feed_back(float overshoot) {
  for (std::size_t i = 0; i < base_.size(); ++i) gradient_[i] = base_[i] + overshoot * delta_[i];
  transpose(gradient_.data(), kRows, size_, target_.data());
  for (std::int64_t first = 0; first < size_; first += kWidth) {
    const auto width = std::min(kWidth, size_ - first);
    if (first == 0) {
      std::fill(feedback_.begin(), feedback_.end(), 0.0f);
    } else {
      multiply(width, kRows, first, columns_.factor_t + first * size_, size_, error_.data(), kRows, feedback_.data(),
               kRows);
    }
    const float* scales[kWidth];
    for (std::int64_t k = 0; k < width; ++k) {
      scales[k] = scales_by_group_.data() + columns_.order[first + k] / kMxfp4BlockSize * kRows;
    }
    kernels().round(width, columns_.factor + first * size_ + first, size_, scales, feedback_.data(),
                    target_.data() + first * kRows, error_.data() + first * kRows, residual_.data() + first * kRows);
  }
}

/// Keeps the codes just found in the rows where J is less than it was. Nothing is kept where nothing is wanted, or so
/// much that J overflows.
void RowRounder::take_better(float overshoot) {
  alignas(64) float squares[kRows] = {}, along[kRows] = {};
  alignas(64) std::uint32_t take[kRows];
  kernels().add(size_, overshoot - 1.0f, columns_.pivots, delta_m_t_.data(), delta_h_t_.data(), error_.data(),
                residual_.data(), squares, along);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    const double off = along[r] + (overshoot - 1.0) * wanted_[i];
    const double cost = wanted_[i] > 0.0 ? squares[r] + (settings_.kappa - 1.0) * off * off / wanted_[i]
                                         : std::numeric_limits<double>::infinity();
    take[r] = cost < best_cost_[i] ? 0xffffffffu : 0u;
    if (take[r] == 0u) continue;
    best_cost_[i] = static_cast<float>(cost);
    best_overshoot_[i] = overshoot;
  }
  kernels().take(size_, take, target_.data(), best_codes_.data());
  kernels().take(size_, take, residual_.data(), best_residual_.data());
}

/// (q - w) H = -(w0 + c d - q) H + (c - 1) d H, and the first product is residual diag(p) M^T: half of the arithmetic
/// of one with H.
void RowRounder::take_gradient() {
  for (std::int64_t k = 0; k < size_; ++k) {
    float* values = best_residual_.data() + k * kRows;
    const float pivot = -columns_.pivots[k];
    for (std::int64_t r = 0; r < kRows; ++r) values[r] *= pivot;
  }
  for (std::int64_t first = 0; first < size_; first += kWidth) {
    const auto width = std::min(kWidth, size_ - first);
    multiply(width, kRows, size_ - first, columns_.factor + first * size_ + first, size_,
             best_residual_.data() + first * kRows, kRows, error_.data() + first * kRows, kRows);
  }
  transpose(error_.data(), size_, kRows, gradient_.data());
  transpose(best_codes_.data(), size_, kRows, codes_.data());
}

void RowRounder::descend(std::int64_t row) {
  const float* scales = scales_.data() + row * (size_ / kMxfp4BlockSize);
  const float *base = base_.data() + row * size_, *delta = delta_.data() + row * size_,
              *delta_h = delta_h_.data() + row * size_;
  float *codes = codes_.data() + row * size_, *gradient = gradient_.data() + row * size_;
  const auto boost = static_cast<float>(settings_.kappa - 1.0);
  const auto norm = static_cast<float>(1.0 / std::sqrt(wanted_[static_cast<std::size_t>(row)]));
  const float beyond = best_overshoot_[static_cast<std::size_t>(row)] - 1.0f;
  double along = 0.0;
  for (std::int64_t j = 0; j < size_; ++j) {
    const auto i = static_cast<std::size_t>(j);
    row_scale_[i] = scales[columns_.order[j] / kMxfp4BlockSize];
    row_inverse_scale_[i] = 1.0f / row_scale_[i];
    direction_[i] = delta_h[j] * norm;
    row_curvature_[i] = 1.0f / (columns_.hessian[j * size_ + j] + boost * direction_[i] * direction_[i]);
    gradient[j] += beyond * delta_h[j];
    along += static_cast<double>(codes[j] - (base[j] + delta[j])) * direction_[i];
  }
  Descent descent{size_,
                  columns_.hessian,
                  row_scale_.data(),
                  row_inverse_scale_.data(),
                  row_curvature_.data(),
                  direction_.data(),
                  boost,
                  codes,
                  gradient,
                  along};
  for (int i = 0; i < settings_.max_sweeps; ++i) {
    if (static_cast<double>(kernels().descend(descent)) <= settings_.settled * static_cast<double>(size_)) break;
  }
}

void RowRounder::write(const RoundingRows& rows, std::int64_t row) const {
  const auto num_groups = size_ / kMxfp4BlockSize, bytes = size_ / 2;
  const std::uint8_t* stored = rows.blocks + row * bytes;
  std::uint8_t* out = rows.rounded + row * bytes;
  std::copy_n(stored, bytes, out);
  rows.bias_correction[row] = 0.0f;
  rows.realised[row] = 0.0;
  rows.wanted[row] = wanted_[static_cast<std::size_t>(row)];
  if (std::isinf(best_cost_[static_cast<std::size_t>(row)])) return;
  double correction = 0.0, realised = 0.0;
  for (std::int64_t j = 0; j < size_; ++j) {
    const auto i = static_cast<std::size_t>(row * size_ + j);
    const std::int64_t column = columns_.order[j];
    const float scale = scales_[static_cast<std::size_t>(row * num_groups + column / kMxfp4BlockSize)];
    const float value = codes_[i];
    correction += static_cast<double>(base_[i] + delta_[i] - value) * columns_.mean[j];
    realised += static_cast<double>(value - base_[i]) * delta_h_[i];
    if (value == base_[i]) continue;  // zero keeps its sign
    auto code = code_of(std::fabs(value) / scale);
    if (std::signbit(value)) code = static_cast<std::uint8_t>(code | 8);
    std::uint8_t& byte = out[column / 2];
    byte = column % 2 == 0 ? static_cast<std::uint8_t>((byte & 0xf0) | code)
                           : static_cast<std::uint8_t>((byte & 0x0f) | (code << 4));
  }
  rows.bias_correction[row] = static_cast<float>(correction);
  rows.realised[row] = realised;
}

}  // namespace ossature
