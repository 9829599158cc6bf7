// Whether a disk has room for what is about to be written.
#pragma once

#include <cstdint>
#include <filesystem>

namespace ossature {

/// Throws std::system_error with ENOSPC (the program's exit code 5), which tells the bytes needed and free, if the file
/// system of `path`, or of the nearest directory above it that exists, has less than `bytes` for us.
void check_free_space(const std::filesystem::path& path, std::uint64_t bytes);

}  // namespace ossature
