// Safetensors files (github.com/huggingface/safetensors, "Format"): an 8-byte little-endian header length, a JSON
// header, then the tensor bytes. Free of LibTorch, so that it can be fuzzed by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/files/checkpoint_error.h"
#include "model/files/mapped_file.h"
#include "model/files/partial_file.h"

namespace ossature {

enum class DType { kBool, kU8, kI8, kI16, kI32, kI64, kF16, kBF16, kF32, kF64 };

/// Bytes of one element.
[[nodiscard]] std::size_t element_size(DType dtype);
/// The name in a header: "BF16", "U8", ...
[[nodiscard]] std::string_view dtype_name(DType dtype);

/// One tensor of a file as its header describes it.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // bytes from the start of the data section
  std::uint64_t end = 0;
};

/// A read-only mapping of one file. The header is checked in full when opened; tensor bytes are touched only by whoever
/// reads them. Safe to share between threads.
class SafetensorsFile {
 public:
  /// Throws CheckpointError if the file is unreadable or truncated, its header is over 100 MB or not the JSON that the
  /// format asks for, a name is repeated, a dtype is unknown, a shape does not match its bytes, or a byte of the data
  /// section is claimed twice or by nobody, or a tensor is not aligned to its element size.
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return file_->path(); }
  [[nodiscard]] const std::shared_ptr<const MappedFile>& file() const { return file_; }
  /// In the order of their bytes in the file.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// nullptr if absent.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// The bytes of a tensor of this file, inside the mapping: valid while this object lives, never to be written.
  [[nodiscard]] std::span<const std::byte> bytes(const TensorInfo& tensor) const;

 private:
  SafetensorsFile() = default;
  std::shared_ptr<const MappedFile> file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
  std::size_t data_offset_ = 0;
};

/// Writes one file: all tensors are declared first, then their bytes are given in the declared order, in pieces of any
/// size, so a file of any size is written in the memory of one piece. It has its name only when finish() has run.
class SafetensorsWriter {
 public:
  /// `tensors` in file order; their begin/end are ignored and computed. A file that tensors of unequal element sizes
  /// share is readable only if every tensor begins at a multiple of its element size: put the larger elements first.
  /// Throws CheckpointError on a repeated or reserved name, a shape below zero, a tensor that would lie misaligned or
  /// if the file cannot be created, std::system_error when the disk refuses.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {});

  /// Appends bytes of the tensor in turn. Throws std::system_error when the disk refuses (the program's exit code 5)
  /// and std::logic_error when more bytes come than were declared.
  void write(std::span<const std::byte> bytes);

  /// Flushes to the disk and gives the file its name. Throws std::logic_error if declared bytes are missing and
  /// std::system_error when the disk refuses.
  void finish();

 private:
  std::optional<PartialFile> file_;  // made when all that was declared is right
  std::uint64_t remaining_ = 0;
};

}  // namespace ossature
