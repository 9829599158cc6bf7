#include "model/export/neighbour_rounding.h"

#include <algorithm>
#include <bit>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/export/bfloat16_neighbours.h"
#include "model/export/expert_rows.h"

namespace ossature {
RoundedToNeighbours round_to_neighbours(const ExpertWeight& base, std::int64_t e, const LowRank& delta,
                                        const InputMoments& inputs, const RoundingSettings& settings) {
  at::NoGradGuard no_grad;
  const auto out = base.out_features(), in = base.in_features();
  RoundedToNeighbours result{at::zeros({out, in / 8}, at::kByte), {}};
  auto* bits = result.upper.data_ptr<std::uint8_t>();
  const at::Tensor moment = inputs.covariance.addr(inputs.mean, inputs.mean);
  const auto read = [&](std::int64_t first, std::int64_t count) {
    at::Tensor wanted = merged_rows(base, e, delta, first, count);
    return WantedRows{wanted, wanted, {}};
  };
  const auto write = [&](std::int64_t first, const WantedRows& rows, const at::Tensor& rounded, const float*) {
    const float *exact = rows.wanted.const_data_ptr<float>(), *value = rounded.const_data_ptr<float>();
    std::uint8_t* to = bits + first * in / 8;
    for (std::int64_t i = 0; i < rounded.numel(); ++i) {
      const auto [lower, upper] = bfloat16_neighbours(exact[i]);
      const auto taken = std::bit_cast<std::uint32_t>(value[i]);
      if (taken == upper && taken != lower) to[i / 8] = static_cast<std::uint8_t>(to[i / 8] | (1u << (i % 8)));
    }
  };
  result.gain = WeightRounder(moment, inputs.mean, delta, settings).round(read, write);
  return result;
}

bool take_neighbours(const float* rows, const std::uint8_t* upper, std::int64_t count, std::int64_t columns,
                     std::uint16_t* out) {
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < count * columns; ++i) {
    const auto [lower, above] = bfloat16_neighbours(rows[i]);
    const std::uint32_t taken = (upper[i / 8] >> (i % 8) & 1u) != 0u ? above : lower;
    largest = std::max(largest, taken & kMagnitudeBits);
    out[i] = static_cast<std::uint16_t>(taken >> 16);
  }
  return largest < kInfinityBits;
}

}  // namespace ossature
