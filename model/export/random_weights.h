// Random weights from a counter: any part of any tensor can be made by itself, on any thread, with the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "model/kernels/mxfp4.h"

namespace ossature {

/// Values are a function of the seed, the tensor's name and the index alone. Thread-safe.
class RandomWeights {
 public:
  /// Normal around 0 with the given standard deviation, cut at 4.3 deviations.
  RandomWeights(std::uint64_t seed, double standard_deviation);

  /// bfloat16 bits of values `first`, `first` + 1, ... of `tensor`. `first` must be a multiple of 4.
  void normal(std::string_view tensor, std::int64_t first, std::span<std::uint16_t> out) const;

  /// Packed codes of MXFP4 blocks `first`, ... (kMxfp4BlockBytes each) and their scale bytes: what encoding normal
  /// values gives. A block is drawn from a pool of encoded ones and gets its own signs.
  void mxfp4_blocks(std::string_view tensor, std::int64_t first, std::span<std::uint8_t> out) const;
  void mxfp4_scales(std::string_view tensor, std::int64_t first, std::span<std::uint8_t> out) const;

 private:
  [[nodiscard]] std::uint64_t key(std::string_view tensor) const;

  std::uint64_t seed_;
  std::vector<std::uint16_t> quantiles_;  // bfloat16 bits, one for each 16-bit number
  std::vector<std::uint8_t> pool_blocks_;
  std::vector<std::uint8_t> pool_scales_;
};

}  // namespace ossature
