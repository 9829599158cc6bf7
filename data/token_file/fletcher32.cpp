#include "data/token_file/fletcher32.h"

#include <algorithm>

namespace ossature {
namespace {

std::uint64_t fold(std::uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

}  // namespace

std::uint32_t fletcher32(const void* bytes, std::size_t size) {
  const auto* data = static_cast<const unsigned char*>(bytes);
  std::uint64_t low = 0, high = 0;
  std::size_t words = size / 2;
  while (words > 0) {
    constexpr std::size_t kUnfolded = 1 << 20;  // 2^16 * 2^20 * 2^20 / 2 stays below 2^64
    const std::size_t part = std::min(words, kUnfolded);
    for (std::size_t i = 0; i < part; ++i, data += 2) {
      low += static_cast<std::uint64_t>(data[0]) << 8 | data[1];
      high += low;
    }
    low = fold(low);
    high = fold(high);
    words -= part;
  }
  if (size % 2 != 0) {
    low = fold(low + (static_cast<std::uint64_t>(data[0]) << 8));
    high = fold(high + low);
  }
  return static_cast<std::uint32_t>(high << 16 | low);
}

}  // namespace ossature
