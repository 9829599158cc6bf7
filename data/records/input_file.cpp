#include "data/records/input_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace ossature {
namespace {

using namespace std::string_view_literals;

constexpr std::size_t kReadBytes = 1 << 20;

struct Signature {
  std::string_view bytes;
  const char* found;
  const char* advice;
};

/// What people give by mistake, told by its first bytes. The longer of two that begin alike comes first.
constexpr std::array kNotText = {
    Signature{"\xff\xfe\0\0"sv, "UTF-32 text", "convert it with: iconv -f UTF-32 -t UTF-8"},
    Signature{"\0\0\xfe\xff"sv, "UTF-32 text", "convert it with: iconv -f UTF-32 -t UTF-8"},
    Signature{"\xff\xfe"sv, "UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8"},
    Signature{"\xfe\xff"sv, "UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8"},
    Signature{"{\0"sv, "UTF-16 text", "convert it with: iconv -f UTF-16LE -t UTF-8"},
    Signature{"[\0"sv, "UTF-16 text", "convert it with: iconv -f UTF-16LE -t UTF-8"},
    Signature{"\0{"sv, "UTF-16 text", "convert it with: iconv -f UTF-16BE -t UTF-8"},
    Signature{"\0["sv, "UTF-16 text", "convert it with: iconv -f UTF-16BE -t UTF-8"},
    Signature{"\xfd"
              "7zXZ\0"sv,
              "an xz archive", "unpack it, or compress it with gzip or zstd"},
    Signature{"BZh"sv, "a bzip2 archive", "unpack it, or compress it with gzip or zstd"},
    Signature{"\x04\x22\x4d\x18"sv, "an lz4 archive", "unpack it, or compress it with gzip or zstd"},
    Signature{"PK\x03\x04"sv, "a zip archive (or a spreadsheet or document)", "unpack or export it"},
    Signature{"PAR1"sv, "a Parquet table", "write it as JSON lines"},
    Signature{"ARROW1"sv, "an Arrow table", "write it as JSON lines"},
    Signature{"\x89HDF\r\n\x1a\n"sv, "an HDF5 file", "a token file is trained on as it is, without prepare"},
    Signature{"SQLite format 3\0"sv, "an SQLite database", "write it as JSON lines"},
    Signature{"%PDF-"sv, "a PDF document", "extract its text"},
};

constexpr auto kExpected = "expected UTF-8 text: JSON lines, a JSON array, .txt or .md, plain or in gzip or zstd";

void refuse_what_is_not_text(const std::string& name, std::string_view start) {
  for (const Signature& signature : kNotText) {
    if (start.starts_with(signature.bytes)) {
      throw DataError(name + ": " + signature.found + "; " + kExpected + "; " + signature.advice);
    }
  }
}

std::string name_of(const std::filesystem::path& path) {
  return path == "-" ? "standard input" : path.string();
}

[[noreturn]] void fail_to_open(const std::filesystem::path& path, int error) {
  if (error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO) {
    throw std::system_error(error, std::generic_category(), path.string());
  }
  throw DataError(path.string() + ": cannot be opened: " + std::generic_category().message(error) + "; " + kExpected);
}

void refuse_directory(const std::filesystem::path& path, const struct stat& status) {
  if (S_ISDIR(status.st_mode)) {
    throw DataError(path.string() + ": cannot be opened: it is a directory; name the files in it");
  }
}

}  // namespace

/// The file as it lies on the disk.
class InputFile::Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, std::string name, std::function<void()> while_waiting)
      : name_(std::move(name)), while_waiting_(std::move(while_waiting)) {
    value_ = path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (value_ < 0) fail_to_open(name_, errno);
    struct stat status {};
    if (::fstat(value_, &status) != 0) fail_to_open(name_, errno);
    refuse_directory(name_, status);
    if (!S_ISREG(status.st_mode)) return;
    // Standard input may be a file that was read in part.
    bytes_read_ = std::max<off_t>(0, ::lseek(value_, 0, SEEK_CUR));
    size_ = status.st_size;
    is_regular_ = true;
    ::posix_fadvise(value_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  std::size_t read(std::span<char> out) {
    if (!is_regular_ && while_waiting_) wait();
    while (true) {
      const ssize_t size = ::read(value_, out.data(), out.size());
      if (size < 0 && errno == EINTR) continue;
      if (size < 0 && errno == ESTALE) throw DataError("it vanished while it was read");
      if (size < 0) throw std::system_error(errno, std::generic_category(), name_ + ": cannot be read");
      bytes_read_ += size;
      if (size == 0) check_size();
      return static_cast<std::size_t>(size);
    }
  }
  [[nodiscard]] std::int64_t bytes_read() const { return bytes_read_; }

 private:
  void wait() const {
    constexpr int kMilliseconds = 200;
    pollfd waiting{value_, POLLIN, 0};
    for (int ready = 0; ready == 0 || (ready < 0 && errno == EINTR);) {
      ready = ::poll(&waiting, 1, kMilliseconds);
      if (ready <= 0) while_waiting_();
    }
  }
  void check_size() const {
    if (!is_regular_ || bytes_read_ == size_) return;
    throw DataError("it had " + std::to_string(size_) + " bytes when it was opened and " + std::to_string(bytes_read_) +
                    " when it was read; give a file that nothing else is writing");
  }

  std::string name_;
  std::function<void()> while_waiting_;
  int value_ = -1;
  bool is_regular_ = false;
  std::int64_t size_ = 0, bytes_read_ = 0;
};

InputFile::InputFile(const std::filesystem::path& path, std::function<void()> while_waiting)
    : name_(name_of(path)),
      descriptor_(std::make_unique<Descriptor>(path, name_, std::move(while_waiting))),
      stream_([file = descriptor_.get()](std::span<char> out) { return file->read(out); }) {
  const auto fill_to = [&](std::size_t size) {
    while (window().size() < size && more()) {
    }
  };
  fill_to(4);
  const std::string_view start = window();
  constexpr std::string_view kGzip = "\x1f\x8b", kZstd = "\x28\xb5\x2f\xfd", kZstdSkippable = "\x2a\x4d\x18";
  const bool is_gzip = start.starts_with(kGzip);
  const bool is_zstd = start.starts_with(kZstd) ||
                       (start.size() >= 4 && (start[0] & 0xf0) == 0x50 && start.substr(1, 3) == kZstdSkippable);
  if (is_gzip || is_zstd) {
    // What was read to look at goes first.
    ByteStream compressed = [file = descriptor_.get(), first = std::string(start)](std::span<char> out) mutable {
      if (first.empty()) return file->read(out);
      const std::size_t size = std::min(first.size(), out.size());
      std::memcpy(out.data(), first.data(), size);
      first.erase(0, size);
      return size;
    };
    begin_ = end_ = 0;
    stream_ = is_gzip ? gunzip(std::move(compressed)) : unzstd(std::move(compressed));
  }
  fill_to(16);
  refuse_what_is_not_text(name_, window());
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (window().starts_with(kByteOrderMark)) consume(kByteOrderMark.size());
}

InputFile::~InputFile() = default;

bool InputFile::more() {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (buffer_.size() - end_ < kReadBytes) buffer_.resize(std::max(2 * kReadBytes, buffer_.size() * 2));
  try {
    const std::size_t size = stream_(std::span(buffer_).subspan(end_));
    end_ += size;
    return size > 0;
  } catch (const DataError& error) {
    throw DataError(name_ + ": " + error.what());
  }
}

std::int64_t InputFile::bytes_read() const {
  return descriptor_->bytes_read();
}

std::optional<std::int64_t> check_input_file(const std::filesystem::path& path) {
  if (path == "-") return std::nullopt;
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) fail_to_open(path, errno);
  refuse_directory(path, status);
  if (::access(path.c_str(), R_OK) != 0) fail_to_open(path, errno);
  return S_ISREG(status.st_mode) ? std::optional<std::int64_t>(status.st_size) : std::nullopt;
}

}  // namespace ossature
