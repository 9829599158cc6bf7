#include "model/export/random_weights.h"

#include <algorithm>
#include <cstring>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace ossature {
namespace {

constexpr std::int64_t kQuantiles = 1 << 16;
constexpr std::int64_t kPoolBlocks = 1 << 14;
constexpr std::int64_t kGrain = 1 << 14;

/// Number n of the sequence that begins at `key` (SplitMix64; Steele, Lea, Flood, OOPSLA 2014).
inline std::uint64_t random_word(std::uint64_t key, std::int64_t n) {
  std::uint64_t z = key + (static_cast<std::uint64_t>(n) + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Three words a block: where in the pool, and the signs of its two halves.
inline std::int64_t pool_index(std::uint64_t key, std::int64_t block) {
  return static_cast<std::int64_t>(random_word(key, 3 * block) % static_cast<std::uint64_t>(kPoolBlocks));
}

template <typename T>
std::vector<T> values_of(const at::Tensor& tensor) {
  const auto* first = static_cast<const T*>(tensor.const_data_ptr());
  return {first, first + tensor.numel()};
}

}  // namespace

RandomWeights::RandomWeights(std::uint64_t seed, double standard_deviation) : seed_(seed) {
  const at::Tensor ranks = at::arange(kQuantiles, at::kDouble).add(0.5).div(kQuantiles);
  const at::Tensor quantiles = at::special_ndtri(ranks).mul(standard_deviation);
  quantiles_ = values_of<std::uint16_t>(quantiles.to(at::kBFloat16));
  at::Tensor draws = at::empty({kPoolBlocks, kMxfp4BlockSize}, at::kLong);
  const std::uint64_t pool_key = key("pool");
  for (std::int64_t i = 0; i < draws.numel(); ++i) {
    draws.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(random_word(pool_key, i) % kQuantiles);
  }
  const Mxfp4Tensor pool = mxfp4_encode(quantiles.to(at::kFloat).index({draws}));
  pool_blocks_ = values_of<std::uint8_t>(pool.blocks);
  pool_scales_ = values_of<std::uint8_t>(pool.scales);
}

std::uint64_t RandomWeights::key(std::string_view tensor) const {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : tensor) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return random_word(hash, static_cast<std::int64_t>(seed_));
}

void RandomWeights::normal(std::string_view tensor, std::int64_t first, std::span<std::uint16_t> out) const {
  const std::uint64_t tensor_key = key(tensor);
  const auto count = static_cast<std::int64_t>(out.size());
  at::parallel_for(0, (count + 3) / 4, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      std::uint64_t word = random_word(tensor_key, first / 4 + n);
      for (auto i = 4 * n; i < std::min(4 * n + 4, count); ++i, word >>= 16) {
        out[static_cast<std::size_t>(i)] = quantiles_[word & (kQuantiles - 1)];
      }
    }
  });
}

void RandomWeights::mxfp4_blocks(std::string_view tensor, std::int64_t first, std::span<std::uint8_t> out) const {
  constexpr std::uint64_t kSigns = 0x8888888888888888u;
  const std::uint64_t tensor_key = key(tensor);
  at::parallel_for(
      0, static_cast<std::int64_t>(out.size()) / kMxfp4BlockBytes, kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (auto n = begin; n < end; ++n) {
          const std::int64_t block = first + n;
          std::uint64_t codes[2];
          static_assert(sizeof codes == kMxfp4BlockBytes);
          std::memcpy(codes, &pool_blocks_[static_cast<std::size_t>(pool_index(tensor_key, block) * kMxfp4BlockBytes)],
                      sizeof codes);
          codes[0] ^= random_word(tensor_key, 3 * block + 1) & kSigns;
          codes[1] ^= random_word(tensor_key, 3 * block + 2) & kSigns;
          std::memcpy(&out[static_cast<std::size_t>(n * kMxfp4BlockBytes)], codes, sizeof codes);
        }
      });
}

void RandomWeights::mxfp4_scales(std::string_view tensor, std::int64_t first, std::span<std::uint8_t> out) const {
  const std::uint64_t tensor_key = key(tensor);
  at::parallel_for(0, static_cast<std::int64_t>(out.size()), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      out[static_cast<std::size_t>(n)] = pool_scales_[static_cast<std::size_t>(pool_index(tensor_key, first + n))];
    }
  });
}

}  // namespace ossature
