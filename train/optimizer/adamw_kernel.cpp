#include "train/optimizer/adamw_kernel.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>

#include <ATen/Parallel.h>

#include "model/kernels/vector_math.h"
#include "train/optimizer/dynamic_code.h"

namespace ossature {
namespace {

constexpr int kBlock = dynamic_code::kBlock;

/// |m| / sqrt(v) of exact moments, whatever the gradients: m and v are sums of (1 - beta1) beta1^k g and of (1 - beta2)
/// beta2^k g^2, so by Cauchy and Schwarz at most (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)).
float largest_ratio(double beta1, double beta2) {
  if (beta1 * beta1 >= beta2) return FLT_MAX;
  return static_cast<float>((1.0 - beta1) / std::sqrt((1.0 - beta2) * (1.0 - beta1 * beta1 / beta2)));
}

/// What a step multiplies by, the same for all parameters.
struct Factors {
  float gradient, beta1, one_minus_beta1, beta2, one_minus_beta2, kept, step_size, inverse_root_correction, epsilon;
  float most_roots;  // that a first moment is of its second

  explicit Factors(const AdamWStep& step)
      : gradient(static_cast<float>(step.gradient_factor)),
        beta1(static_cast<float>(step.beta1)),
        one_minus_beta1(static_cast<float>(1.0 - step.beta1)),
        beta2(static_cast<float>(step.beta2)),
        one_minus_beta2(static_cast<float>(1.0 - step.beta2)),
        kept(static_cast<float>(1.0 - step.learning_rate * step.weight_decay)),
        step_size(
            static_cast<float>(step.learning_rate / (1.0 - std::pow(step.beta1, static_cast<double>(step.number))))),
        inverse_root_correction(
            static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(step.beta2, static_cast<double>(step.number))))),
        epsilon(static_cast<float>(step.epsilon)),
        most_roots(largest_ratio(step.beta1, step.beta2)) {}
};

/// SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014).
std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
/// Where the random numbers of a block begin.
std::uint32_t block_key(std::int64_t step, std::int64_t block) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;
  return static_cast<std::uint32_t>(
      mixed(mixed(static_cast<std::uint64_t>(step) * kGolden) + static_cast<std::uint64_t>(block) * kGolden));
}
/// Number i of a block, uniform in 32 bits: the finalizer of MurmurHash3 (Appleby) on a counter.
OSSATURE_INLINE std::uint32_t random_bits(std::uint32_t key, std::uint32_t i) {
  std::uint32_t x = key + i * 0x9e3779b9u;
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}
/// 16 bits as a number in (0, 1).
OSSATURE_INLINE float unit(std::uint32_t bits) {
  return (static_cast<float>(static_cast<std::int32_t>(bits)) + 0.5f) * (1.0f / 65536.0f);
}

OSSATURE_INLINE float widened(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
/// To one of the two neighbours, up with the probability of the part cut off; `random` has 16 bits.
OSSATURE_INLINE std::uint16_t rounded(float value, std::uint32_t random) {
  return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + random) >> 16);
}

/// A block of the moments of the whole, decoded into m and v before the update and encoded after it.
OSSATURE_INLINE void load(const BFloat16Moments& block, float* m, float* v) {
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    m[i] = widened(block.first[i]);
    v[i] = widened(block.second[i]);
  }
}
OSSATURE_INLINE void store(const BFloat16Moments& block, const float* m, const float* v, std::uint32_t key) {
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    const std::uint32_t random = random_bits(key, static_cast<std::uint32_t>(i));
    block.first[i] = rounded(m[i], random & 0xffffu);
    block.second[i] = rounded(v[i], random >> 16);
  }
}

OSSATURE_INLINE void load(const DynamicMoments& block, float* m, float* v) {
  const dynamic_code::Levels& levels = dynamic_code::levels();
  const float* first = levels.first.data();
  const float* second = levels.second.data();
  const float first_absmax = *block.first_absmax, second_absmax = *block.second_absmax;
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    m[i] = first[block.first[i]] * first_absmax;
    v[i] = second[block.second[i]] * second_absmax;
  }
}
OSSATURE_INLINE void store(const DynamicMoments& block, const float* m, const float* v, std::uint32_t key) {
  const float* second = dynamic_code::levels().second.data();
  float first_absmax = 0.0f, second_absmax = 0.0f;
#pragma omp simd reduction(max : first_absmax, second_absmax)
  for (int i = 0; i < kBlock; ++i) {
    const float size = m[i] < 0.0f ? -m[i] : m[i];
    first_absmax = size > first_absmax ? size : first_absmax;
    second_absmax = v[i] > second_absmax ? v[i] : second_absmax;
  }
  // The inverse of a smaller one is not finite.
  first_absmax = first_absmax < FLT_MIN ? 0.0f : first_absmax;
  second_absmax = second_absmax < FLT_MIN ? 0.0f : second_absmax;
  const float first_inverse = first_absmax > 0.0f ? 1.0f / first_absmax : 0.0f;
  const float second_inverse = second_absmax > 0.0f ? 1.0f / second_absmax : 0.0f;
  // Codes are written last: a store of bytes might change anything, so a loop with one is not vectorized.
  std::int32_t first_codes[kBlock], second_codes[kBlock], below[kBlock];
  std::uint32_t random[kBlock];
  float parts[kBlock];
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    random[i] = random_bits(key, static_cast<std::uint32_t>(i));
    first_codes[i] = dynamic_code::encode_first(m[i] * first_inverse, unit(random[i] & 0xffffu));
    parts[i] = v[i] * second_inverse;
    below[i] = dynamic_code::level_below(__builtin_sqrtf(parts[i]));
  }
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    second_codes[i] = dynamic_code::encode_second(parts[i], below[i], unit(random[i] >> 16), second);
  }
  std::uint8_t* first_out = block.first;
  std::uint8_t* second_out = block.second;
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    first_out[i] = static_cast<std::uint8_t>(first_codes[i]);
    second_out[i] = static_cast<std::uint8_t>(second_codes[i]);
  }
  *block.first_absmax = first_absmax;
  *block.second_absmax = second_absmax;
}

template <typename Moments>
OSSATURE_INLINE void update_block(const Factors& factors, std::uint32_t key, int num_decayed, float* values,
                                  float* gradients, const Moments& block) {
  alignas(64) float m[kBlock], v[kBlock];
  load(block, m, v);
  const Factors f = factors;  // the compiler knows then that no store changes it
#pragma omp simd
  for (int i = 0; i < kBlock; ++i) {
    const float g = gradients[i] * f.gradient;
    v[i] = f.beta2 * v[i] + f.one_minus_beta2 * (g * g);
    const float root = __builtin_sqrtf(v[i]), most = f.most_roots * root;
    const float first = f.beta1 * m[i] + f.one_minus_beta1 * g;
    const float bounded = first < most ? first : most;
    m[i] = bounded > -most ? bounded : -most;
    const float kept = values[i] * (i < num_decayed ? f.kept : 1.0f);
    values[i] = kept - f.step_size * m[i] / (root * f.inverse_root_correction + f.epsilon);
    gradients[i] = 0.0f;
  }
  store(block, m, v, key);
}

template <typename Moments>
void update_block_plain(const Factors& factors, std::uint32_t key, int num_decayed, float* values, float* gradients,
                        const Moments& block) {
  update_block(factors, key, num_decayed, values, gradients, block);
}
template <typename Moments>
OSSATURE_WIDE void update_block_wide(const Factors& factors, std::uint32_t key, int num_decayed, float* values,
                                     float* gradients, const Moments& block) {
  update_block(factors, key, num_decayed, values, gradients, block);
}
template <typename Moments>
OSSATURE_AVX2 void update_block_avx2(const Factors& factors, std::uint32_t key, int num_decayed, float* values,
                                     float* gradients, const Moments& block) {
  update_block(factors, key, num_decayed, values, gradients, block);
}

BFloat16Moments block_of(const BFloat16Moments& all, std::int64_t block) {
  return {all.first + block * kBlock, all.second + block * kBlock};
}
DynamicMoments block_of(const DynamicMoments& all, std::int64_t block) {
  return {all.first + block * kBlock, all.second + block * kBlock, all.first_absmax + block, all.second_absmax + block};
}

/// Room for a whole block where the last one has fewer parameters.
template <typename Code>
struct Padded {
  float values[kBlock] = {}, gradients[kBlock] = {};
  Code first[kBlock] = {}, second[kBlock] = {};
};
BFloat16Moments in(Padded<std::uint16_t>& room, const BFloat16Moments& /*block*/) {
  return {room.first, room.second};
}
DynamicMoments in(Padded<std::uint8_t>& room, const DynamicMoments& block) {
  return {room.first, room.second, block.first_absmax, block.second_absmax};
}

template <typename Moments>
void update(const AdamWStep& step, std::int64_t numel, std::int64_t num_decayed, float* values, float* gradients,
            const Moments& moments) {
  static const auto kernel =
      vector_math::fastest(update_block_wide<Moments>, update_block_avx2<Moments>, update_block_plain<Moments>);
  using Code = std::remove_reference_t<decltype(*moments.first)>;
  constexpr std::int64_t kGrain = 64;
  const Factors factors(step);
  const auto decayed_in = [&](std::int64_t block) {
    return static_cast<int>(std::clamp<std::int64_t>(num_decayed - block * kBlock, 0, kBlock));
  };
  at::parallel_for(0, numel / kBlock, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto b = begin; b < end; ++b) {
      kernel(factors, block_key(step.number, b), decayed_in(b), values + b * kBlock, gradients + b * kBlock,
             block_of(moments, b));
    }
  });
  const std::int64_t rest = numel % kBlock, last = numel / kBlock;
  if (rest == 0) return;
  Padded<Code> room;
  const Moments block = block_of(moments, last);
  std::copy_n(values + last * kBlock, rest, room.values);
  std::copy_n(gradients + last * kBlock, rest, room.gradients);
  std::copy_n(block.first, rest, room.first);
  std::copy_n(block.second, rest, room.second);
  kernel(factors, block_key(step.number, last), decayed_in(last), room.values, room.gradients, in(room, block));
  std::copy_n(room.values, rest, values + last * kBlock);
  std::copy_n(room.gradients, rest, gradients + last * kBlock);
  std::copy_n(room.first, rest, block.first);
  std::copy_n(room.second, rest, block.second);
}

}  // namespace

void adamw_update(const AdamWStep& step, std::int64_t numel, std::int64_t num_decayed, float* values, float* gradients,
                  const BFloat16Moments& moments) {
  update(step, numel, num_decayed, values, gradients, moments);
}

void adamw_update(const AdamWStep& step, std::int64_t numel, std::int64_t num_decayed, float* values, float* gradients,
                  const DynamicMoments& moments) {
  update(step, numel, num_decayed, values, gradients, moments);
}

}  // namespace ossature
