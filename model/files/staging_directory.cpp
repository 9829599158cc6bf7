#include "model/files/staging_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "model/files/checkpoint_error.h"

namespace ossature {

namespace fs = std::filesystem;

namespace {

constexpr const char* kMark = ".partial-";

/// A descriptor of `dir` that holds its lock, or -1 if another process does.
int lock(const fs::path& dir) {
  const int descriptor = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor >= 0 && ::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    ::close(descriptor);
    return -1;
  }
  return descriptor;
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// Waits until what was written to a file, or the names in a directory, are on the disk.
void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw std::system_error(errno, std::generic_category(), path.string());
  const int failed = ::fsync(descriptor) != 0 ? errno : 0;
  ::close(descriptor);
  // Some file systems know no fsync of a directory.
  if (failed != 0 && failed != EINVAL) throw std::system_error(failed, std::generic_category(), path.string());
}

/// Removes what processes that no longer live were filling for `final_path`.
void remove_abandoned(const fs::path& final_path) {
  const std::string prefix = final_path.filename().string() + kMark;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent_of(final_path), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || name.find_first_not_of("0123456789", prefix.size()) != std::string::npos) continue;
    const int descriptor = lock(entry.path());
    if (descriptor < 0) continue;
    fs::remove_all(entry.path(), ignored);
    ::close(descriptor);
  }
}

}  // namespace

StagingDirectory::StagingDirectory(fs::path final_path) : final_path_(std::move(final_path)) {
  if (final_path_.empty()) throw CheckpointError("an output directory without a name; expected one");
  if (!final_path_.has_filename()) final_path_ = final_path_.parent_path();  // "out/" means "out"
  if (fs::exists(final_path_) && !(fs::is_directory(final_path_) && fs::is_empty(final_path_))) {
    throw CheckpointError(final_path_.string() +
                          ": already exists and is no empty directory; remove it or give another directory");
  }
  if (!fs::exists(final_path_) && fs::is_symlink(final_path_)) {
    throw CheckpointError(final_path_.string() +
                          ": is a symbolic link to nothing; remove it or give another directory");
  }
  remove_abandoned(final_path_);
  path_ = final_path_.string() + kMark + std::to_string(getpid());
  try {
    above_.emplace(path_.parent_path());
    fs::create_directories(path_);
  } catch (const fs::filesystem_error& error) {
    throw std::system_error(error.code(), final_path_.string() + ": this directory cannot be made");
  }
  lock_ = lock(path_);
}

StagingDirectory::~StagingDirectory() {
  std::error_code ignored;
  if (lock_ >= 0) ::close(lock_);
  if (path_.empty()) return;
  fs::remove_all(path_, ignored);
}

void StagingDirectory::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(path_)) {
    if (entry.is_regular_file()) sync(entry.path());
  }
  sync(path_);
  fs::rename(path_, final_path_);
  sync(parent_of(final_path_));
  path_.clear();
}

}  // namespace ossature
