#include "model/files/partial_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>

#include "model/files/checkpoint_error.h"

namespace ossature {
namespace {

[[noreturn]] void fail_on_disk(int error, const std::filesystem::path& path, const std::string& what) {
  throw std::system_error(error, std::generic_category(), path.string() + ": " + what);
}

/// The user's mistake (a missing folder, no permission) rather than the disk's state.
bool is_bad_path(int error) {
  return error == ENOENT || error == EACCES || error == EPERM || error == ENOTDIR || error == EISDIR ||
         error == ENAMETOOLONG || error == ELOOP;
}

}  // namespace

PartialFile::PartialFile(std::filesystem::path path) : path_(std::move(path)), partial_(path_.string() + ".partial") {
  fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ >= 0) return;
  const int error = errno;
  if (!is_bad_path(error)) fail_on_disk(error, partial_, "cannot be created");
  throw CheckpointError(partial_.string() + ": it cannot be created (" + std::generic_category().message(error) +
                        "); expected a folder that exists and may be written to");
}

PartialFile::~PartialFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

void PartialFile::write(std::span<const std::byte> bytes) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 30;  // Linux writes at most 2^31 - 4096 at once
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), std::min(bytes.size(), kMaxBytes));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_on_disk(errno, partial_, "cannot be written");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void PartialFile::commit() {
  if (::fsync(fd_) != 0) fail_on_disk(errno, partial_, "cannot be written");
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) {
    const int error = errno;
    ::unlink(partial_.c_str());
    fail_on_disk(error, partial_, "cannot be written");
  }
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(partial_.c_str());
    fail_on_disk(error, path_, "cannot be given its name");
  }
}

}  // namespace ossature
