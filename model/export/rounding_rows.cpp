#include "model/export/rounding_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/native/CPUBlas.h>

#include "model/kernels/mxfp4.h"
#include "model/kernels/transpose.h"
#include "model/kernels/vector_math.h"

namespace ossature {
namespace {

constexpr std::int64_t kRows = kRoundedRows;
constexpr std::int64_t kWidth = 64;  // columns that are rounded between two products

/// c [m, n] = a [m, k] b [k, n], row-major, on the calling thread. The library's product reads operands as they lie:
/// where second-level caches are small, as with AVX2 alone, it gets so much of them at a time that they stay in it.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda, const float* b,
              std::int64_t ldb, float* c, std::int64_t ldc) {
  constexpr std::int64_t kDepth = 128;  // 64 KiB of b; 256 is a tenth slower, all at once less than half as fast
  const auto depth = vector_math::is_wide() ? k : kDepth;
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

}  // namespace

RowRounder::RowRounder(const RoundingColumns& columns, const RoundingSettings& settings)
    : columns_(columns), settings_(settings), size_(columns.count) {
  const auto values = static_cast<std::size_t>(kRows * size_), row = static_cast<std::size_t>(size_);
  for (auto* each : {&wanted_, &delta_, &delta_h_, &gradient_, &rounded_, &delta_h_t_, &delta_m_t_, &target_, &error_,
                     &residual_, &best_, &best_residual_}) {
    each->resize(values);
  }
  for (auto* each : {&scales_, &scales_by_group_}) each->resize(values / kMxfp4BlockSize);
  feedback_.resize(static_cast<std::size_t>(kWidth * kRows));
  for (auto* each : {&row_scale_, &row_inverse_scale_, &row_curvature_, &direction_}) each->resize(row);
  wanted_gain_.resize(kRows);
  for (auto* each : {&best_cost_, &best_overshoot_}) each->resize(kRows);
}

void RowRounder::round(const RoundingRows& rows) {
  read(rows);
  std::fill(best_cost_.begin(), best_cost_.end(), std::numeric_limits<float>::infinity());
  for (const double overshoot : is_codes_ ? settings_.overshoots : std::vector<double>{1.0}) {
    feed_back(static_cast<float>(overshoot));
    take_better(static_cast<float>(overshoot));
  }
  take_gradient();
  for (std::int64_t row = 0; row < rows.count; ++row) {
    if (is_rounded(row)) descend(row);
    write(rows, row);
  }
}

/// Rows past the end are zeros of scale 1: they cost time, and nobody looks at them.
void RowRounder::read(const RoundingRows& rows) {
  const auto num_groups = size_ / kMxfp4BlockSize;
  is_codes_ = rows.scales != nullptr;
  std::fill(wanted_.begin(), wanted_.end(), 0.0f);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const float* from = rows.wanted + row * size_;
    float* wanted = wanted_.data() + row * size_;
    for (std::int64_t j = 0; j < size_; ++j) wanted[j] = from[columns_.order[j]];
  }
  std::fill(scales_.begin(), scales_.end(), 1.0f);
  if (is_codes_) std::copy_n(rows.scales, rows.count * num_groups, scales_.begin());
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
    wanted_gain_[static_cast<std::size_t>(row)] =
        dot(delta_.data() + row * size_, delta_h_.data() + row * size_, size_);
  }
}

void RowRounder::feed_back(float overshoot) {
  const float beyond = overshoot - 1.0f;
  for (std::size_t i = 0; i < wanted_.size(); ++i) gradient_[i] = wanted_[i] + beyond * delta_[i];
  transpose(gradient_.data(), kRows, size_, target_.data());
  for (std::int64_t first = 0; first < size_; first += kWidth) {
    const auto width = std::min(kWidth, size_ - first);
    if (first == 0) {
      std::fill(feedback_.begin(), feedback_.end(), 0.0f);
    } else {
      multiply(width, kRows, first, columns_.factor_t + first * size_, size_, error_.data(), kRows, feedback_.data(),
               kRows);
    }
    const auto at = first * kRows;
    const float* factor = columns_.factor + first * size_ + first;
    if (is_codes_) {
      const float* scales[kWidth];
      for (std::int64_t k = 0; k < width; ++k) {
        scales[k] = scales_by_group_.data() + columns_.order[first + k] / kMxfp4BlockSize * kRows;
      }
      rounding_kernels().round_codes(width, factor, size_, {scales}, feedback_.data(), target_.data() + at,
                                     error_.data() + at, residual_.data() + at);
    } else {
      rounding_kernels().round_neighbours(width, factor, size_, {}, feedback_.data(), target_.data() + at,
                                          error_.data() + at, residual_.data() + at);
    }
  }
}

/// Keeps the values just found in the rows where J is less than it was. Nothing is kept where nothing is wanted, or so
/// much that J overflows.
void RowRounder::take_better(float overshoot) {
  alignas(64) float squares[kRows] = {}, along[kRows] = {};
  alignas(64) std::uint32_t take[kRows];
  rounding_kernels().add_costs(size_, overshoot - 1.0f, columns_.pivots, delta_m_t_.data(), delta_h_t_.data(),
                               error_.data(), residual_.data(), squares, along);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    const double off = along[r] + (overshoot - 1.0) * wanted_gain_[i];
    const double cost = wanted_gain_[i] > 0.0 ? squares[r] + (settings_.kappa - 1.0) * off * off / wanted_gain_[i]
                                              : std::numeric_limits<double>::infinity();
    take[r] = cost < best_cost_[i] ? 0xffffffffu : 0u;
    if (take[r] == 0u) continue;
    best_cost_[i] = static_cast<float>(cost);
    best_overshoot_[i] = overshoot;
  }
  rounding_kernels().take_rows(size_, take, target_.data(), best_.data());
  rounding_kernels().take_rows(size_, take, residual_.data(), best_residual_.data());
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
  transpose(best_.data(), size_, kRows, rounded_.data());
}

bool RowRounder::is_rounded(std::int64_t row) const {
  return std::isfinite(best_cost_[static_cast<std::size_t>(row)]);
}

void RowRounder::descend(std::int64_t row) {
  const float* scales = scales_.data() + row * (size_ / kMxfp4BlockSize);
  const float *wanted = wanted_.data() + row * size_, *delta_h = delta_h_.data() + row * size_;
  float *rounded = rounded_.data() + row * size_, *gradient = gradient_.data() + row * size_;
  const auto boost = static_cast<float>(settings_.kappa - 1.0);
  const auto norm = static_cast<float>(1.0 / std::sqrt(wanted_gain_[static_cast<std::size_t>(row)]));
  const float beyond = best_overshoot_[static_cast<std::size_t>(row)] - 1.0f;
  double along = 0.0;
  for (std::int64_t j = 0; j < size_; ++j) {
    const auto i = static_cast<std::size_t>(j);
    row_scale_[i] = scales[columns_.order[j] / kMxfp4BlockSize];
    row_inverse_scale_[i] = 1.0f / row_scale_[i];
    direction_[i] = delta_h[j] * norm;
    row_curvature_[i] = 1.0f / (columns_.hessian[j * size_ + j] + boost * direction_[i] * direction_[i]);
    gradient[j] += beyond * delta_h[j];
    along += static_cast<double>(rounded[j] - wanted[j]) * direction_[i];
  }
  Descent descent{size_, columns_.hessian, row_curvature_.data(), direction_.data(), boost, rounded, gradient, along};
  for (int i = 0; i < settings_.max_sweeps; ++i) {
    const auto moved = is_codes_
                           ? rounding_kernels().descend_codes(descent, {row_scale_.data(), row_inverse_scale_.data()})
                           : rounding_kernels().descend_neighbours(descent, {wanted});
    if (static_cast<double>(moved) <= settings_.settled * static_cast<double>(size_)) break;
  }
}

void RowRounder::write(const RoundingRows& rows, std::int64_t row) const {
  const double gain = wanted_gain_[static_cast<std::size_t>(row)];
  rows.bias_correction[row] = 0.0f;
  rows.realised[row] = 0.0;
  rows.wanted_gain[row] = gain;
  if (!is_rounded(row)) return;
  double correction = 0.0, realised = gain;
  for (std::int64_t j = 0; j < size_; ++j) {
    const auto i = static_cast<std::size_t>(row * size_ + j);
    const float value = rounded_[i];
    rows.rounded[row * size_ + columns_.order[j]] = value;
    const double error = static_cast<double>(value) - wanted_[i];
    correction -= error * columns_.mean[j];
    realised += error * delta_h_[i];
  }
  rows.bias_correction[row] = static_cast<float>(correction);
  rows.realised[row] = realised;
}

}  // namespace ossature
