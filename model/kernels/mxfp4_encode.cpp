// Rounding to the MXFP4 grid.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/files/checkpoint_error.h"
#include "model/kernels/mxfp4.h"

namespace ossature {
namespace {

/// Magnitudes by code, and the halfway points between neighbours.
constexpr float kMagnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

/// The code of the magnitude nearest to m >= 0: ties to the even code (IEEE round to nearest even on one mantissa bit),
/// above 6 to 6.
inline std::uint8_t nearest_code(float m) {
  return static_cast<std::uint8_t>((m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) +
                                   (m > 5.0f));
}

/// One block at one scale: its codes and the squared error that they leave, relative to the scale.
struct Trial {
  std::uint8_t codes[kMxfp4BlockSize];
  float error = 0.0f;
};

void try_scale(const float* values, int scale, Trial& trial) {
  // Two exact factors: 2^(127 - scale) alone is beyond float32 for the smallest scales.
  const float first = std::ldexp(1.0f, (127 - scale) / 2), second = std::ldexp(1.0f, 127 - scale - (127 - scale) / 2);
  float error = 0.0f;
  for (std::int64_t i = 0; i < kMxfp4BlockSize; ++i) {
    const float magnitude = std::fabs(values[i]) * first * second;
    const std::uint8_t code = nearest_code(magnitude);
    const float difference = magnitude - kMagnitudes[code];
    error += difference * difference;
    trial.codes[i] = static_cast<std::uint8_t>(code | (std::signbit(values[i]) ? 8 : 0));
  }
  trial.error = error;
}

/// Chooses scale and codes of one block. Returns the scale byte.
std::uint8_t encode_block(const float* values, Trial& best) {
  float largest = 0.0f;
  for (std::int64_t i = 0; i < kMxfp4BlockSize; ++i) largest = std::max(largest, std::fabs(values[i]));
  if (largest == 0.0f) {
    try_scale(values, 127, best);
    return 127;
  }
  // frexp: largest = f * 2^e, f in [0.5, 1). floor(log2) = e - 1, so at scale 2^(e - 3) the largest is in [4, 8): it is
  // kept exactly or saturates; twice that scale puts it in [2, 4).
  int exponent = 0;
  std::frexp(largest, &exponent);
  const int low = std::clamp(exponent - 3 + 127, 0, kMxfp4MaxScale), high = std::min(low + 1, kMxfp4MaxScale);
  try_scale(values, low, best);
  if (best.error == 0.0f || high == low) return static_cast<std::uint8_t>(low);
  Trial other;
  try_scale(values, high, other);
  if (other.error * 4.0f < best.error) {  // errors are in units of their scales
    best = other;
    return static_cast<std::uint8_t>(high);
  }
  return static_cast<std::uint8_t>(low);
}

/// Calls body(block index, 32 float values) for each block of a contiguous float32 tensor, on all threads.
template <typename Body>
void for_each_block(const at::Tensor& plain, const Body& body) {
  const float* values = plain.const_data_ptr<float>();
  at::parallel_for(0, plain.numel() / kMxfp4BlockSize, 256, [&](std::int64_t begin, std::int64_t end) {
    for (auto block = begin; block < end; ++block) body(block, values + block * kMxfp4BlockSize);
  });
}

at::Tensor checked(const at::Tensor& weight) {
  at::NoGradGuard no_grad;
  at::Tensor plain = weight.detach().cpu().to(at::kFloat).contiguous();
  if (!plain.isfinite().all().item<bool>()) {
    throw CheckpointError(
        "a weight to be rounded to MXFP4 is not finite; the model or the adapter is damaged or diverged");
  }
  return plain;
}

}  // namespace

Mxfp4Tensor mxfp4_encode(const at::Tensor& weight) {
  const at::Tensor plain = checked(weight);
  std::vector<std::int64_t> shape = plain.sizes().vec();
  shape.back() /= kMxfp4BlockSize;
  Mxfp4Tensor result;
  result.scales = at::empty(shape, at::kByte);
  shape.push_back(kMxfp4BlockBytes);
  result.blocks = at::empty(shape, at::kByte);
  auto* blocks = result.blocks.data_ptr<std::uint8_t>();
  auto* scales = result.scales.data_ptr<std::uint8_t>();
  for_each_block(plain, [&](std::int64_t block, const float* values) {
    Trial trial;
    scales[block] = encode_block(values, trial);
    for (std::int64_t i = 0; i < kMxfp4BlockBytes; ++i) {
      blocks[block * kMxfp4BlockBytes + i] =
          static_cast<std::uint8_t>(trial.codes[2 * i] | (trial.codes[2 * i + 1] << 4));
    }
  });
  return result;
}

at::Tensor mxfp4_round(const at::Tensor& weight) {
  const at::Tensor plain = checked(weight);
  at::Tensor result = at::empty_like(plain);
  auto* out = result.data_ptr<float>();
  for_each_block(plain, [&](std::int64_t block, const float* values) {
    Trial trial;
    const int scale = encode_block(values, trial);
    const float factor = std::ldexp(1.0f, scale - 127);
    for (std::int64_t i = 0; i < kMxfp4BlockSize; ++i) {
      const float value = kMagnitudes[trial.codes[i] & 7] * factor;
      out[block * kMxfp4BlockSize + i] = (trial.codes[i] & 8) != 0 ? -value : value;
    }
  });
  return result.to(weight.device());
}

}  // namespace ossature
