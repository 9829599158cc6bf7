#include "model/export/neighbour_rounding.h"

#include <algorithm>
#include <bit>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/export/expert_rows.h"

namespace ossature {
namespace {

constexpr std::uint32_t kStep = 0x10000;                                  // of bfloat16, in bits of a float32
constexpr std::uint32_t kInfinity = 0x7f800000, kMagnitude = 0x7fffffff;  // the finite values are below

/// The value below in magnitude, as bits of a float32.
std::uint32_t lower_of(float value) {
  return std::bit_cast<std::uint32_t>(value) & 0xffff0000u;
}

}  // namespace

RoundedToNeighbours round_to_neighbours(const ExpertWeight& base, std::int64_t e, const LowRank& delta,
                                        const InputMoments& inputs, const RoundingSettings& settings) {
  at::NoGradGuard no_grad;
  const auto out = base.out_features(), in = base.in_features();
  RoundedToNeighbours result{at::zeros({out, in / 8}, at::kByte), {}};
  auto* bits = result.upper.data_ptr<std::uint8_t>();
  const at::Tensor moment = inputs.covariance.addr(inputs.mean, inputs.mean);
  result.gain = WeightRounder(moment, inputs.mean, delta, settings)
                    .round(
                        [&](std::int64_t first, std::int64_t count) {
                          at::Tensor wanted = merged_rows(base, e, delta, first, count);
                          return WantedRows{wanted, wanted.clone(), {}};
                        },
                        [&](std::int64_t first, const at::Tensor& rounded, const float*) {
                          const float* values = rounded.const_data_ptr<float>();
                          const at::Tensor wanted = merged_rows(base, e, delta, first, rounded.size(0));
                          const float* exact = wanted.const_data_ptr<float>();
                          std::uint8_t* to = bits + first * in / 8;
                          for (std::int64_t i = 0; i < rounded.numel(); ++i) {
                            if (std::bit_cast<std::uint32_t>(values[i]) == lower_of(exact[i]) + kStep)
                              to[i / 8] = static_cast<std::uint8_t>(to[i / 8] | (1u << (i % 8)));
                          }
                        });
  return result;
}

bool take_neighbours(const float* rows, const std::uint8_t* upper, std::int64_t count, std::int64_t columns,
                     std::uint16_t* out) {
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < count * columns; ++i) {
    const std::uint32_t lower = lower_of(rows[i]);
    const bool lies_between = lower != std::bit_cast<std::uint32_t>(rows[i]);
    const std::uint32_t taken = lower + (lies_between ? (upper[i / 8] >> (i % 8) & 1u) * kStep : 0u);
    largest = std::max(largest, taken & kMagnitude);
    out[i] = static_cast<std::uint16_t>(taken >> 16);
  }
  return largest < kInfinity;
}

}  // namespace ossature
