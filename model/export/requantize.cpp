#include "model/export/requantize.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/export/expert_rows.h"

namespace ossature {
namespace {

/// The code of an E2M1 value, without its sign.
std::uint8_t code_of(float size) {
  return static_cast<std::uint8_t>((size > 0.25f) + (size > 0.75f) + (size > 1.25f) + (size > 1.75f) + (size > 2.5f) +
                                   (size > 3.5f) + (size > 5.0f));
}

/// Packs values of the grid [count, I]. Where one is that of `base`, its code stays as `blocks` has it: a zero keeps
/// its sign.
void encode(const at::Tensor& values, const at::Tensor& base, const float* scales, std::uint8_t* blocks) {
  const float *value = values.const_data_ptr<float>(), *before = base.const_data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    if (value[i] == before[i]) continue;
    auto code = code_of(std::fabs(value[i]) / scales[i / kMxfp4BlockSize]);
    if (std::signbit(value[i])) code = static_cast<std::uint8_t>(code | 8);
    std::uint8_t& byte = blocks[i / 2];
    byte = i % 2 == 0 ? static_cast<std::uint8_t>((byte & 0xf0) | code)
                      : static_cast<std::uint8_t>((byte & 0x0f) | (code << 4));
  }
}

}  // namespace

RoundedExpert requantize(const Mxfp4Tensor& base, std::int64_t e, const LowRank& delta, const InputMoments& inputs,
                         const RoundingSettings& settings) {
  at::NoGradGuard no_grad;
  const auto in = base.in_features(), groups = in / kMxfp4BlockSize;
  const ExpertWeight weight{base, {}};
  const at::Tensor exponents = base.scales[e].contiguous();
  RoundedExpert result{
      base.blocks[e].clone(at::MemoryFormat::Contiguous), at::empty({base.out_features()}, at::kFloat), {}};
  auto* blocks = result.blocks.data_ptr<std::uint8_t>();
  auto* corrections = result.bias_correction.data_ptr<float>();
  const auto read = [&](std::int64_t first, std::int64_t count) {
    const auto* exponent = exponents.const_data_ptr<std::uint8_t>() + first * groups;
    std::vector<float> scales(static_cast<std::size_t>(count * groups));
    std::transform(exponent, exponent + count * groups, scales.begin(),
                   [](std::uint8_t each) { return std::ldexp(1.0f, each - 127); });
    return WantedRows{merged_rows(weight, e, delta, first, count), decoded_rows(weight, e, first, count),
                      std::move(scales)};
  };
  const auto write = [&](std::int64_t first, const WantedRows& rows, const at::Tensor& rounded,
                         const float* correction) {
    encode(rounded, rows.unrounded, rows.scales.data(), blocks + first * in / 2);
    std::copy_n(correction, rounded.size(0), corrections + first);
  };
  result.gain = WeightRounder(inputs.covariance, inputs.mean, delta, settings).round(read, write);
  return result;
}

}  // namespace ossature
