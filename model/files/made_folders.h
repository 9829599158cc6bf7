// Folders that were missing on the way to an output.
#pragma once

#include <filesystem>
#include <vector>

namespace ossature {

/// Makes a folder and those above it. At the end of its life those that it made and that are still empty go again: they
/// stay if the output came to be.
class MadeFolders {
 public:
  /// Throws nothing: what cannot be made is for whoever writes there to say.
  explicit MadeFolders(const std::filesystem::path& folder);
  ~MadeFolders();
  MadeFolders(const MadeFolders&) = delete;
  MadeFolders& operator=(const MadeFolders&) = delete;

 private:
  std::vector<std::filesystem::path> made_;  // innermost first
};

}  // namespace ossature
