#include "model/layers/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/layers/linear_tiled.h"
#include "model/layers/vector_product.h"

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

DropoutMask::DropoutMask(double p, DropoutKey key)
    : active_(p != 0.0 && key.seed != 0),
      kept_(static_cast<float>(1.0 / (1.0 - p))),
      threshold_(static_cast<std::uint64_t>(p * 4294967296.0)),
      stream_(mix(key.seed ^ mix(key.place))) {}

float DropoutMask::factor(std::uint64_t index) const {
  return (mix(stream_ + index) >> 32) < threshold_ ? 0.0f : kept_;
}

at::Tensor dropout(const at::Tensor& x, double p, DropoutKey key) {
  const DropoutMask mask(p, key);
  if (!mask.active()) return x;
  at::Tensor factors = at::empty(x.sizes(), at::kFloat);
  auto* values = factors.data_ptr<float>();
  at::parallel_for(0, factors.numel(), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) values[i] = mask.factor(static_cast<std::uint64_t>(i));
  });
  return (x * factors.to(x.device())).to(x.scalar_type());
}

at::Tensor apply(const Linear& linear, const at::Tensor& x, DropoutKey key) {
  if (takes_vectors(linear, x, key)) return vector_apply(linear, x, x.scalar_type());
  const bool trains_bias = linear.bias.defined() && linear.bias.requires_grad();
  if (takes_tiles(linear.weight, x) && !trains_bias) return tiled_apply(linear, x, key);
  const auto dtype = x.scalar_type();
  at::Tensor y = at::linear(x, linear.weight.to(dtype), linear.bias.defined() ? linear.bias.to(dtype) : at::Tensor());
  if (!linear.low_rank.defined()) return y;
  const LowRank& pair = linear.low_rank;
  const at::Tensor reduced = at::linear(dropout(x, pair.dropout, key), pair.a.to(dtype));
  return y.addmm_(reduced, pair.b.to(dtype).t(), 1.0, pair.scale);
}

}  // namespace ossature
