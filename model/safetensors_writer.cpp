#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <set>
#include <stdexcept>
#include <system_error>

#include "model/safetensors.h"
#include "model/safetensors_header.h"

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

/// Sets begin and end of each tensor and returns the bytes of all.
std::uint64_t lay_out(std::vector<TensorInfo>& tensors, const std::string& where) {
  std::set<std::string_view> names;
  std::uint64_t position = 0;
  for (TensorInfo& info : tensors) {
    const std::string tensor = where + ": tensor " + escaped(info.name);
    if (info.name == "__metadata__" || !names.insert(info.name).second)
      throw CheckpointError(tensor + " is given twice or has a reserved name; expected every name once");
    std::uint64_t bytes = 0;
    if (!byte_count(info.dtype, info.shape, bytes) || __builtin_add_overflow(position, bytes, &info.end))
      throw CheckpointError(tensor + " has a negative or too large shape; expected one that fits in a file");
    if (bytes != 0 && position % element_size(info.dtype) != 0)
      throw CheckpointError(tensor + " would begin at byte " + std::to_string(position) +
                            " of the data; expected a multiple of its element size: write larger elements first");
    info.begin = position;
    position = info.end;
  }
  return position;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), partial_(path.string() + ".partial") {
  remaining_ = lay_out(tensors, path.string());
  const std::string header = safetensors_header_json(tensors, metadata, path.string());
  if (header.size() > kMaxSafetensorsHeaderBytes)
    throw CheckpointError(path.string() + ": the header would have " + std::to_string(header.size()) +
                          " bytes; expected at most " + std::to_string(kMaxSafetensorsHeaderBytes) +
                          "; write several files");
  fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    const int error = errno;
    if (!is_bad_path(error)) fail_on_disk(error, partial_, "cannot be created");
    throw CheckpointError(partial_.string() + ": it cannot be created (" + std::generic_category().message(error) +
                          "); expected a folder that exists and may be written to");
  }
  const auto length = std::bit_cast<std::array<std::byte, sizeof(std::uint64_t)>>(std::uint64_t{header.size()});
  try {
    write_all(length);
    write_all(std::as_bytes(std::span(header)));
  } catch (...) {  // a constructor that throws has no destructor to clean up
    ::close(fd_);
    ::unlink(partial_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  if (bytes.size() > remaining_)
    throw std::logic_error(path_.string() + ": " + std::to_string(bytes.size() - remaining_) +
                           " bytes more are written than were declared");
  write_all(bytes);
  remaining_ -= bytes.size();
}

void SafetensorsWriter::write_all(std::span<const std::byte> bytes) {
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

void SafetensorsWriter::finish() {
  if (remaining_ != 0)
    throw std::logic_error(path_.string() + ": " + std::to_string(remaining_) + " declared bytes are missing");
  if (::fsync(fd_) != 0) fail_on_disk(errno, partial_, "cannot be written");
  const int fd = fd_;
  fd_ = -1;
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
