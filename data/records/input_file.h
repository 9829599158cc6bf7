// One file of training data as a window over its decompressed bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/records/decompression.h"

namespace ossature {

class InputFile {
 public:
  /// Opens `path`; "-" is standard input. gzip and zstd are known by their first bytes and decompressed; a UTF-8 byte
  /// order mark is passed over. Throws DataError for what cannot be opened and what is not text: a directory, UTF-16,
  /// other compressions, known binary formats. `while_waiting`, if there is one, is called a few times a second while a
  /// pipe or terminal has nothing to read yet, and may throw.
  explicit InputFile(const std::filesystem::path& path, std::function<void()> while_waiting = {});
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// The bytes at hand: what was read and not yet consumed. Valid until the next more() or consume().
  [[nodiscard]] std::string_view window() const { return {buffer_.data() + begin_, end_ - begin_}; }
  /// Makes the window longer; false at the end of the file. Throws DataError "file: ..." for damaged compression and
  /// for a file that shrank or grew while it was read; std::system_error for a failing disk.
  bool more();
  /// Drops the first bytes of the window.
  void consume(std::size_t size) { begin_ += size; }

  /// How errors call it: the path, or "standard input".
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Bytes read of the file as it lies on the disk.
  [[nodiscard]] std::int64_t bytes_read() const;

 private:
  class Descriptor;

  std::string name_;
  std::unique_ptr<Descriptor> descriptor_;
  ByteStream stream_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
};

/// The size of the file on disk; nullopt if it has none (standard input, a pipe). Throws DataError if it is absent, a
/// directory or not to be read, so that a wrong name among many is found before the work.
[[nodiscard]] std::optional<std::int64_t> check_input_file(const std::filesystem::path& path);

}  // namespace ossature
