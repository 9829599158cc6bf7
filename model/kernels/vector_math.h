// Arithmetic on single values for kernels that vectorize over it: bfloat16 and back, and the exponential. Inline and
// branch-free, so that a loop over them compiles to vector instructions. For kernels.
#pragma once

#include <bit>
#include <cstdint>

#include <c10/util/BFloat16.h>

#include "model/kernels/processor.h"

#define OSSATURE_INLINE inline __attribute__((always_inline))

/// Compile a function for AVX-512, to be called where is_wide(), and for AVX2, see fastest() and run_fastest().
#if defined(__x86_64__)
#define OSSATURE_WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define OSSATURE_AVX2 __attribute__((target("avx2,fma")))
#else
#define OSSATURE_WIDE
#define OSSATURE_AVX2
#endif

namespace ossature::vector_math {

/// Whether the processor has what OSSATURE_WIDE assumes.
inline bool is_wide() {
  return instructions() >= Instructions::kAvx512;
}

/// The fastest that the processor can run of a function compiled with OSSATURE_WIDE, with OSSATURE_AVX2 and with
/// neither.
template <typename Function>
Function fastest(Function wide, Function avx2, Function plain) {
  if (is_wide()) return wide;
  return instructions() >= Instructions::kAvx2 ? avx2 : plain;
}

/// Body::run, an OSSATURE_INLINE static function, compiled for three kinds of processors.
template <typename Body, typename... Arguments>
OSSATURE_WIDE auto run_wide(Arguments... arguments) {
  return Body::run(arguments...);
}
template <typename Body, typename... Arguments>
OSSATURE_AVX2 auto run_avx2(Arguments... arguments) {
  return Body::run(arguments...);
}
template <typename Body, typename... Arguments>
[[gnu::noinline]] auto run_plain(Arguments... arguments) {
  return Body::run(arguments...);
}

/// Runs what is the fastest here, where each kind of processor has a body of its own.
template <typename Wide, typename Avx2, typename Plain, typename... Arguments>
auto run_fastest_of(Arguments... arguments) {
  return fastest(run_wide<Wide, Arguments...>, run_avx2<Avx2, Arguments...>,
                 run_plain<Plain, Arguments...>)(arguments...);
}
/// Runs the copy of Body::run that is the fastest here. Arguments are passed by value: pointers and numbers.
template <typename Body, typename... Arguments>
auto run_fastest(Arguments... arguments) {
  return run_fastest_of<Body, Body, Body>(arguments...);
}

OSSATURE_INLINE float load(float value) {
  return value;
}
OSSATURE_INLINE float load(c10::BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.x) << 16);
}

/// `value` as bfloat16 in the upper half of the result: to nearest, ties to even; NaN stays NaN.
OSSATURE_INLINE std::uint32_t rounded_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return value != value ? 0x7fc00000u : rounded;
}
/// `value` as bfloat16 holds it.
OSSATURE_INLINE float rounded(float value) {
  return std::bit_cast<float>(rounded_bits(value));
}
OSSATURE_INLINE void store(float value, float* out) {
  *out = value;
}
OSSATURE_INLINE void store(float value, c10::BFloat16* out) {
  out->x = static_cast<std::uint16_t>(rounded_bits(value) >> 16);
}

/// exp(-x) by 2^n times a polynomial (Taylor to the seventh power on |r| <= ln2/2): relative error below 2e-7, and
/// unlike std::exp it runs in vector registers.
OSSATURE_INLINE float exp_negative(float x) {
  const float clamped = x > 87.0f ? 87.0f : (x < -87.0f ? -87.0f : x);
  const float y = -clamped;
  const float shifted = y * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const float n = shifted - 12582912.0f;
  const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto exponent = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
  const float result = p * std::bit_cast<float>(exponent);
  return x != x ? x : result;
}

}  // namespace ossature::vector_math
