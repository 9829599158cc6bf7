#include "model/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <system_error>

#include "model/files/checkpoint_error.h"

namespace ossature {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor bytes are used as they lie in the file");

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
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status = {};
  if (file->descriptor_ < 0 || ::fstat(file->descriptor_, &status) != 0) fail_to_read(errno);
  if (!S_ISREG(status.st_mode)) fail(path, "it is not a regular file", kind);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size < min_bytes)
    fail(path, "it has " + std::to_string(size) + " bytes",
         "at least " + std::to_string(min_bytes) + ", " + min_text + "; is it cut short?");
  void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file->descriptor_, 0);
  if (mapping == MAP_FAILED) fail_to_read(errno);
  file->mapping_ = mapping;
  file->size_ = size;
  return file;
}

MappedFile::~MappedFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, size_);
  for (const int descriptor : {descriptor_, direct_descriptor_}) {
    if (descriptor >= 0) ::close(descriptor);
  }
}

bool MappedFile::reads_directly() const {
  // The file that is mapped, whatever has that path by now.
  std::call_once(opened_directly_, [&] {
    const std::string same = "/proc/self/fd/" + std::to_string(descriptor_);
    direct_descriptor_ = ::open(same.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  });
  return direct_descriptor_ >= 0;
}

void MappedFile::read(std::uint64_t offset, std::span<std::byte> into, ReadWay way) const {
  bool directly = way == ReadWay::kDirect && reads_directly();
  std::size_t done = 0;
  while (done < into.size() && offset + done < size_) {
    const auto got = ::pread(directly ? direct_descriptor_ : descriptor_, into.data() + done, into.size() - done,
                             static_cast<off_t>(offset + done));
    const int error = errno;
    if (got < 0 && error == EINTR) continue;
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (directly) {
      directly = false;  // what its file system promised when it was opened does not hold for every byte
    } else {
      const std::string where = "at byte " + std::to_string(offset + done);
      if (got < 0) {
        fail(path_, "it cannot be read " + where + " (" + std::generic_category().message(error) + ")",
             "a file that may be read");
      }
      fail(path_, "it ends " + where, "the " + std::to_string(size_) + " bytes that it had when it was opened");
    }
  }
}

}  // namespace ossature
