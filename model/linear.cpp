#include "model/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace ossature {
namespace {

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

at::Tensor dropout(const at::Tensor& x, double p, DropoutKey key) {
  if (p == 0.0 || key.seed == 0) return x;
  at::Tensor mask = at::empty(x.sizes(), at::kFloat);
  auto* values = mask.data_ptr<float>();
  const auto kept = static_cast<float>(1.0 / (1.0 - p));
  const auto threshold = static_cast<std::uint64_t>(p * 4294967296.0);
  const std::uint64_t stream = mix(key.seed ^ mix(key.place));
  at::parallel_for(0, mask.numel(), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) {
      values[i] = (mix(stream + static_cast<std::uint64_t>(i)) >> 32) < threshold ? 0.0f : kept;
    }
  });
  return x * mask.to(x.device(), x.scalar_type());
}

at::Tensor apply(const Linear& linear, const at::Tensor& x, DropoutKey key) {
  const auto dtype = x.scalar_type();
  at::Tensor y = at::linear(x, linear.weight.to(dtype), linear.bias.defined() ? linear.bias.to(dtype) : at::Tensor());
  if (!linear.low_rank.defined()) return y;
  const LowRank& pair = linear.low_rank;
  const at::Tensor reduced = at::linear(dropout(x, pair.dropout, key), pair.a.to(dtype));
  return y.addmm_(reduced, pair.b.to(dtype).t(), 1.0, pair.scale);
}

}  // namespace ossature
