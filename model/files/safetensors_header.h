// The JSON header of a safetensors file, checked in full. Knows nothing of files, so that it can be fuzzed by itself.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/files/safetensors.h"

namespace ossature {

/// The format's own limit on the JSON text, in bytes.
inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
};

/// Parses `json`, the header of a file whose data section has `data_bytes` bytes and begins `data_offset` bytes into
/// the file. Throws CheckpointError, its message beginning with `where`, on anything but an object of tensors that
/// together cover the data section exactly once, each aligned to its element size.
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_offset,
                                                         std::uint64_t data_bytes, const std::string& where);

/// The header of a file with `tensors`, in which begin and end are set, padded with spaces so that the data section
/// that follows it (after the 8 bytes of its length) begins at a multiple of 8. Throws CheckpointError, its message
/// beginning with `where`, if a name or a text is not UTF-8.
[[nodiscard]] std::string safetensors_header_json(const std::vector<TensorInfo>& tensors,
                                                  const std::map<std::string, std::string>& metadata,
                                                  const std::string& where);

/// `text` in JSON's quotes and escapes, cut after 80 bytes: safe to show, whatever a file claims.
[[nodiscard]] std::string escaped(std::string_view text);

/// "[2, 3]".
[[nodiscard]] std::string shape_text(const std::vector<std::int64_t>& shape);

/// Bytes of a tensor. False when the product does not fit in 63 bits.
[[nodiscard]] bool byte_count(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t& bytes);

}  // namespace ossature
