#include "model/files/free_space.h"

#include <cerrno>
#include <string>
#include <system_error>

namespace ossature {

namespace fs = std::filesystem;

void check_free_space(const fs::path& path, std::uint64_t bytes) {
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  const std::uint64_t free = fs::space(existing).available;
  if (bytes <= free) return;
  throw std::system_error(ENOSPC, std::generic_category(),
                          path.string() + ": needs " + std::to_string(bytes) + " bytes, but its disk has " +
                              std::to_string(free) + " free; make room or give a directory on another disk");
}

}  // namespace ossature
