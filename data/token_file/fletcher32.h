// The checksum of HDF5's Fletcher32 filter, which ends a stored chunk.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ossature {

/// Of big-endian 16-bit words, an odd last byte taken for a high one, as HDF5 1.10's H5_checksum_fletcher32 computes
/// it. HDF5 stores it little-endian.
[[nodiscard]] std::uint32_t fletcher32(const void* bytes, std::size_t size);

}  // namespace ossature
