// A read-only mapping of a file of weights.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace ossature {

/// The bytes of one file, mapped: touched only by whoever reads them. Safe to share between threads.
class MappedFile {
 public:
  /// `kind` is what a message calls the file that was expected ("a safetensors file"). Throws CheckpointError if the
  /// file is not regular, cannot be read or has fewer than `min_bytes` (at least 1), `min_text` saying what those are.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path, const std::string& kind,
                                                std::size_t min_bytes, const std::string& min_text);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(mapping_), size_}; }

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  void* mapping_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ossature
