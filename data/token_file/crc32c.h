// CRC-32C (Castagnoli; RFC 3720, appendix B.4): what token files and TensorBoard's event files use.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ossature {

/// The checksum of `previous`'s bytes followed by these. Start with 0.
[[nodiscard]] std::uint32_t crc32c(const void* bytes, std::size_t size, std::uint32_t previous = 0);

}  // namespace ossature
