#include "model/kernels/mxfp4_ggml.h"

#include <cstring>

#include "model/kernels/mxfp4.h"

namespace ossature {
namespace {

constexpr std::uint64_t kLower = 0x0f0f0f0f0f0f0f0f, kUpper = ~kLower;

}  // namespace

// Bytes i and i + 8 of gpt-oss's order hold values 2i, 2i + 1 and 2i + 16, 2i + 17: bytes 2i and 2i + 1 of ggml's.
// Eight of either kind are worked on at once.

void mxfp4_to_ggml(const std::uint8_t* blocks, const std::uint8_t* scales, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t b = 0; b < count; ++b, blocks += kMxfp4BlockBytes, out += kGgmlMxfp4BlockBytes) {
    std::uint64_t first = 0, second = 0;
    std::memcpy(&first, blocks, 8);
    std::memcpy(&second, blocks + 8, 8);
    const std::uint64_t even = (first & kLower) | ((second & kLower) << 4);
    const std::uint64_t odd = ((first & kUpper) >> 4) | (second & kUpper);
    std::uint8_t evens[8], odds[8];
    std::memcpy(evens, &even, 8);
    std::memcpy(odds, &odd, 8);
    out[0] = scales[b];
    for (int i = 0; i < 8; ++i) {
      out[1 + 2 * i] = evens[i];
      out[2 + 2 * i] = odds[i];
    }
  }
}

void mxfp4_from_ggml(const std::uint8_t* in, std::int64_t count, std::uint8_t* blocks, std::uint8_t* scales) {
  for (std::int64_t b = 0; b < count; ++b, in += kGgmlMxfp4BlockBytes, blocks += kMxfp4BlockBytes) {
    std::uint8_t evens[8], odds[8];
    for (int i = 0; i < 8; ++i) {
      evens[i] = in[1 + 2 * i];
      odds[i] = in[2 + 2 * i];
    }
    std::uint64_t even = 0, odd = 0;
    std::memcpy(&even, evens, 8);
    std::memcpy(&odd, odds, 8);
    const std::uint64_t first = (even & kLower) | ((odd & kLower) << 4);
    const std::uint64_t second = ((even & kUpper) >> 4) | (odd & kUpper);
    std::memcpy(blocks, &first, 8);
    std::memcpy(blocks + 8, &second, 8);
    scales[b] = in[0];
  }
}

}  // namespace ossature
