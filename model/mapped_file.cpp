#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <system_error>

#include "model/config.h"

namespace ossature {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor bytes are used as they lie in the file");

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

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& found, const std::string& expected) {
  throw CheckpointError(path.string() + ": " + found + "; expected " + expected);
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path, const std::string& kind,
                                                   std::size_t min_bytes, const std::string& min_text) {
  const auto fail_to_read = [&](int error) {
    fail(path, "it cannot be read (" + std::generic_category().message(error) + ")", kind + " that may be read");
  };
  // O_NONBLOCK: a named pipe is refused below instead of waited for.
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status = {};
  if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) fail_to_read(errno);
  if (!S_ISREG(status.st_mode)) fail(path, "it is not a regular file", kind);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size < min_bytes)
    fail(path, "it has " + std::to_string(size) + " bytes",
         "at least " + std::to_string(min_bytes) + ", " + min_text + "; is it cut short?");
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (mapping == MAP_FAILED) fail_to_read(errno);
  file->mapping_ = mapping;
  file->size_ = size;
  return file;
}

MappedFile::~MappedFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, size_);
}

}  // namespace ossature
