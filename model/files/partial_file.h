// A file that appears under its name only when it is complete.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace ossature {

/// Writes to `path`.partial, which commit() renames: what stood at `path` stays readable, mapped or not, until then,
/// and a writer that dies leaves no half file.
class PartialFile {
 public:
  /// Throws CheckpointError if the path is not one that can be written (no such folder, no permission) and
  /// std::system_error when the disk refuses.
  explicit PartialFile(std::filesystem::path path);
  /// Removes the partial file unless commit() has run.
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Appends `bytes`. Throws std::system_error when the disk refuses (the program's exit code 5).
  void write(std::span<const std::byte> bytes);
  /// Flushes to the disk and gives the file its name. Throws std::system_error when the disk refuses.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  int fd_ = -1;
};

}  // namespace ossature
