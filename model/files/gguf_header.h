// The header of a GGUF file, checked in full. Knows nothing of files, so that it can be fuzzed by itself.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "model/files/gguf.h"

namespace ossature {

struct GgufHeader {
  GgufKeyValues key_values;
  std::vector<GgufTensor> tensors;
  std::uint64_t data_offset = 0;  // bytes from the start of the file
};

/// Parses the header of a file whose bytes are `file`. Throws CheckpointError, its message beginning with `where`.
[[nodiscard]] GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& where);

/// The header of a file with `tensors`, padded so that the data section follows. Sets the tensors' begin and end.
/// Throws CheckpointError, its message beginning with `where`, if a name or key is repeated or too long or a shape is
/// not one that the format has.
[[nodiscard]] std::string gguf_header_bytes(const GgufKeyValues& key_values, std::vector<GgufTensor>& tensors,
                                            const std::string& where);

}  // namespace ossature
