#include "model/files/made_folders.h"

#include <system_error>

namespace ossature {

namespace fs = std::filesystem;

MadeFolders::MadeFolders(const fs::path& folder) {
  std::error_code ignored;
  for (fs::path missing = folder; !missing.empty() && !fs::exists(missing, ignored); missing = missing.parent_path())
    made_.push_back(missing);
  if (!made_.empty()) fs::create_directories(folder, ignored);
}

MadeFolders::~MadeFolders() {
  std::error_code ignored;
  for (const fs::path& folder : made_) fs::remove(folder, ignored);
}

}  // namespace ossature
