// Arguments that several commands take, and what they must be.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "model/files/made_folders.h"

namespace CLI {
class App;
}

namespace ossature {

/// Adds --date to `command`, "today" unless given; `date` must live as long as it. Anything but a day of the calendar,
/// "today" or "none" is a usage error.
void add_date_option(CLI::App& command, std::string& date);

/// What --date means: a day ("2026-01-15"), or nullopt for "none".
[[nodiscard]] std::optional<std::string> date_of(const std::string& date);

/// A file that a command is going to write. Folders that are missing on the way are made, and go again if it is not
/// written.
class OutputFile {
 public:
  /// What of an earlier call may be replaced; what is empty, and what is no regular file, such as a pipe, always.
  enum class Replaces { kNothing, kHdf5, kHtml };

  /// Throws DataError if `file` is something else than what may be replaced, or cannot become a file because it is a
  /// directory or its directory is none and cannot be made: better before the work than after it.
  OutputFile(const std::filesystem::path& file, Replaces replaces);

 private:
  MadeFolders folders_;
};

}  // namespace ossature
