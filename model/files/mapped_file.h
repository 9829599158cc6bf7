// A file of weights: mapped read-only, and read past the page cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>

namespace ossature {

/// How bytes come from the disk: without a place in the page cache (O_DIRECT), which takes least of the processor and
/// leaves the cache to others, or through it, where they may be found the next time.
enum class ReadWay { kDirect, kCached };

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

  /// Reads the bytes from `offset` on, past the mapping. `offset`, `into` and its size are multiples of a page; what
  /// lies past the file's end gets anything. Throws CheckpointError if it cannot be read.
  void read(std::uint64_t offset, std::span<std::byte> into, ReadWay way) const;
  /// Whether its file system knows the direct way; where it does not, read() takes the other.
  [[nodiscard]] bool reads_directly() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  int descriptor_ = -1;
  void* mapping_ = nullptr;
  std::size_t size_ = 0;
  mutable std::once_flag opened_directly_;
  mutable int direct_descriptor_ = -1;
};

/// Bytes of a mapped file, and the file.
struct MappedPart {
  std::shared_ptr<const MappedFile> file;
  std::span<const std::byte> bytes;
};

}  // namespace ossature
