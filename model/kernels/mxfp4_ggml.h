// ggml's order of MXFP4 (ggml-common.h, block_mxfp4): a block is its scale and its 16 bytes together, and byte j holds
// values j (lower nibble) and j + 16. gpt-oss's order, which model/kernels/mxfp4.h has: all scales apart, byte i holds
// values 2i and 2i + 1. Codes and scales are the same bits in both, so going from the one to the other and back changes
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ossature {

inline constexpr std::int64_t kGgmlMxfp4BlockBytes = 17;

/// `count` blocks: `blocks` [count, 16] and `scales` [count] to `out` [count, 17]. Single threaded.
void mxfp4_to_ggml(const std::uint8_t* blocks, const std::uint8_t* scales, std::int64_t count, std::uint8_t* out);

/// The other way.
void mxfp4_from_ggml(const std::uint8_t* in, std::int64_t count, std::uint8_t* blocks, std::uint8_t* scales);

}  // namespace ossature
