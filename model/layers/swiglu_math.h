// The arithmetic of the expert activation on single values, for kernels that vectorize over it: model/layers/swiglu.h
// has the formula. Internal to model/.
#pragma once

#include "model/kernels/vector_math.h"
#include "model/layers/swiglu.h"

namespace ossature::swiglu_math {

using namespace vector_math;

inline constexpr auto kAlpha = static_cast<float>(kSwigluAlpha);

OSSATURE_INLINE float activation(float gate, float up, float limit) {
  const float g = gate > limit ? limit : gate;
  float l = up > limit ? limit : up;
  l = l < -limit ? -limit : l;
  return g / (1.0f + exp_negative(kAlpha * g)) * (l + 1.0f);
}

/// Gradients of gate and up from that of h; zero where a clamp holds. `h` receives the activation itself.
OSSATURE_INLINE void gradient(float gate, float up, float limit, float grad_h, float& grad_gate, float& grad_up,
                              float& h) {
  const float g = gate > limit ? limit : gate;
  float l = up > limit ? limit : up;
  l = l < -limit ? -limit : l;
  const float sigmoid = 1.0f / (1.0f + exp_negative(kAlpha * g));
  h = g * sigmoid * (l + 1.0f);
  grad_gate = gate > limit ? 0.0f : grad_h * (l + 1.0f) * sigmoid * (1.0f + kAlpha * g * (1.0f - sigmoid));
  grad_up = up > limit || up < -limit ? 0.0f : grad_h * g * sigmoid;
}

}  // namespace ossature::swiglu_math
