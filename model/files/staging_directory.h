// A directory that appears under its name only when it is complete.
#pragma once

#include <filesystem>
#include <optional>

#include "model/files/made_folders.h"

namespace ossature {

/// Fill path(), then commit(). If that does not happen, nothing is left behind; what a process that was killed left
/// behind is removed by the next one that makes the same directory.
class StagingDirectory {
 public:
  /// Creates a temporary sibling of `final_path`. Throws CheckpointError if `final_path` exists and is anything but an
  /// empty directory, std::system_error with its name if the system refuses.
  explicit StagingDirectory(std::filesystem::path final_path);
  ~StagingDirectory();
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Renames path() to the final name, once all that is in it is on the disk: a crash of the machine leaves it whole or
  /// absent.
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path path_;
  int lock_ = -1;  // the directory, locked while this lives: how others tell it from one left behind
  std::optional<MadeFolders> above_;
};

}  // namespace ossature
