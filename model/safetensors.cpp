#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "model/safetensors_header.h"

namespace ossature {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor bytes are used as they lie in the file");

constexpr std::uint64_t kLengthBytes = 8;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  throw CheckpointError(where + ": " + found + "; expected " + expected);
}

[[noreturn]] void fail_to_read(const std::string& where, int error) {
  fail(where, "it cannot be read (" + std::generic_category().message(error) + ")", "a readable safetensors file");
}

}  // namespace

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  const std::string where = path.string();
  // O_NONBLOCK: a named pipe is refused below instead of waited for.
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status = {};
  if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) fail_to_read(where, errno);
  if (!S_ISREG(status.st_mode)) fail(where, "it is not a regular file", "a safetensors file");
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
  if (file_bytes < kLengthBytes)
    fail(where, "it has " + std::to_string(file_bytes) + " bytes",
         "at least 8, the length of the header; is it cut short?");

  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile());
  void* mapping = ::mmap(nullptr, file_bytes, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (mapping == MAP_FAILED) fail_to_read(where, errno);
  file->path_ = path;
  file->mapping_ = mapping;
  file->mapping_bytes_ = file_bytes;

  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapping, kLengthBytes);
  if (header_bytes > kMaxSafetensorsHeaderBytes)
    fail(where, "its header claims " + std::to_string(header_bytes) + " bytes",
         "at most " + std::to_string(kMaxSafetensorsHeaderBytes) + "; is it a safetensors file?");
  if (header_bytes > file_bytes - kLengthBytes)
    fail(where,
         "its header claims " + std::to_string(header_bytes) + " bytes but the file has " + std::to_string(file_bytes),
         "the header inside the file; is it cut short?");
  file->data_offset_ = kLengthBytes + header_bytes;
  const std::string_view json(static_cast<const char*>(mapping) + kLengthBytes, header_bytes);
  SafetensorsHeader header = parse_safetensors_header(json, file->data_offset_, file_bytes - file->data_offset_, where);
  file->tensors_ = std::move(header.tensors);
  file->metadata_ = std::move(header.metadata);
  for (std::size_t i = 0; i < file->tensors_.size(); ++i) file->index_.emplace(file->tensors_[i].name, i);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return {static_cast<const std::byte*>(mapping_) + data_offset_ + tensor.begin, tensor.end - tensor.begin};
}

}  // namespace ossature
