// An AdamW step over moments that are stored in fewer bits than it is computed in, in one pass: a block of 256
// parameters at a time is decoded into registers and the first cache, updated in float32 and encoded again. Rounding
// could leave a first moment that is large for its second, and a step of many learning rates; it is held to the largest
// multiple of the second's root that exact moments can have (7.3 with betas 0.9 and 0.999).
#pragma once

#include <cstdint>

namespace ossature {

/// A step's rounding draws random numbers that are a function of its number and the index alone, so results depend
/// neither on threads nor on where a run was interrupted.
struct AdamWStep {
  std::int64_t number = 1;  // from 1: decides bias correction and rounding
  double gradient_factor = 1.0;
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
};

/// Moments in bfloat16 (its bits), [numel] each. Stochastic rounding: the expected moment is the exact one.
struct BFloat16Moments {
  std::uint16_t* first;
  std::uint16_t* second;
};

/// Moments in 8-bit codes (train/optimizer/dynamic_code.h), [numel] each, and the largest magnitude of each block,
/// [ceil(numel / 256)] each.
struct DynamicMoments {
  std::uint8_t* first;
  std::uint8_t* second;
  float* first_absmax;
  float* second_absmax;
};

/// Updates `values` by `gradients`, [numel] each, of which the first `num_decayed` take weight decay, and zeroes the
/// gradients.
void adamw_update(const AdamWStep& step, std::int64_t numel, std::int64_t num_decayed, float* values, float* gradients,
                  const BFloat16Moments& moments);
void adamw_update(const AdamWStep& step, std::int64_t numel, std::int64_t num_decayed, float* values, float* gradients,
                  const DynamicMoments& moments);

}  // namespace ossature
