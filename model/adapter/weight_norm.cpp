#include "model/adapter/weight_norm.h"

#include <array>
#include <cmath>

#include <ATen/ATen.h>

namespace ossature {
namespace {

/// Twice the magnitude of each code, squared: whole numbers (OCP Microscaling Formats v1.0, section 5.3.3).
constexpr std::array<std::uint16_t, 8> kSquares = {0, 1, 4, 9, 16, 36, 64, 144};

/// Sum over the two values of a byte.
constexpr std::array<std::uint16_t, 256> byte_squares() {
  std::array<std::uint16_t, 256> sums{};
  for (std::size_t byte = 0; byte < sums.size(); ++byte)
    sums[byte] = static_cast<std::uint16_t>(kSquares[byte & 7] + kSquares[(byte >> 4) & 7]);
  return sums;
}
constexpr std::array<std::uint16_t, 256> kByteSquares = byte_squares();

double packed_norm(const at::Tensor& blocks, const at::Tensor& scales) {
  const auto* codes = blocks.const_data_ptr<std::uint8_t>();
  const auto* exponents = scales.const_data_ptr<std::uint8_t>();
  std::array<std::uint64_t, 256> by_scale{};  // sums of whole numbers are exact
  for (std::int64_t block = 0; block < scales.numel(); ++block) {
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < kMxfp4BlockBytes; ++i) sum += kByteSquares[codes[block * kMxfp4BlockBytes + i]];
    by_scale[exponents[block]] += sum;
  }
  double sum = 0.0;
  for (std::size_t scale = 0; scale < by_scale.size(); ++scale)
    sum += std::ldexp(static_cast<double>(by_scale[scale]), 2 * (static_cast<int>(scale) - 127) - 2);
  return std::sqrt(sum);
}

}  // namespace

double weight_norm(const at::Tensor& weight) {
  return at::linalg_vector_norm(weight.detach(), 2, c10::nullopt, false, at::kDouble).item<double>();
}

double weight_norm(const ExpertWeight& weight, std::int64_t e) {
  if (!weight.is_packed()) return weight_norm(weight.dense[e]);
  return packed_norm(weight.packed.blocks[e], weight.packed.scales[e]);
}

}  // namespace ossature
