#include "model/staging_directory.h"

#include <unistd.h>

#include <string>

#include "model/config.h"

namespace ossature {

namespace fs = std::filesystem;

StagingDirectory::StagingDirectory(fs::path final_path) : final_path_(std::move(final_path)) {
  if (!final_path_.has_filename()) final_path_ = final_path_.parent_path();  // "out/" means "out"
  if (fs::exists(final_path_) && !(fs::is_directory(final_path_) && fs::is_empty(final_path_))) {
    throw CheckpointError(final_path_.string() +
                          ": already exists and is not empty; remove it or give another directory");
  }
  path_ = final_path_.string() + ".partial-" + std::to_string(getpid());
  fs::remove_all(path_);
  for (fs::path above = path_.parent_path(); !above.empty() && !fs::exists(above); above = above.parent_path())
    made_above_.push_back(above);
  fs::create_directories(path_);
}

StagingDirectory::~StagingDirectory() {
  std::error_code ignored;
  if (path_.empty()) return;
  fs::remove_all(path_, ignored);
  for (const fs::path& above : made_above_) fs::remove(above, ignored);  // those still empty
}

void StagingDirectory::commit() {
  fs::rename(path_, final_path_);
  path_.clear();
}

}  // namespace ossature
