// A file that only grows, for logs that must survive the death of the program.
#pragma once

#include <filesystem>
#include <string_view>

namespace ossature {

/// Every append reaches the kernel before it returns, whole or not at all as far as a killed program can tell.
class AppendFile {
 public:
  /// Opens `path` at its end, creating it if absent. Throws std::system_error naming it (the program's exit code 5).
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Throws std::system_error when the disk refuses.
  void append(std::string_view bytes);

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace ossature
