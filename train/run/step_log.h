// A log of JSON objects, one a line, each with the step that it is of.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "train/run/append_file.h"

namespace ossature {

/// A line is in the file when append() returns.
class StepLog {
 public:
  /// Goes on after `steps_done` steps: lines of later steps are dropped, and one that a killed program left unfinished.
  /// With 0 the file starts anew. Of the last step's lines those that have the key `undone` are dropped too. Throws
  /// std::system_error when the disk refuses, as append() does.
  StepLog(const std::filesystem::path& file, std::int64_t steps_done, std::string_view undone = {});

  /// `line` without its end.
  void append(std::string_view line);

 private:
  AppendFile lines_;
};

}  // namespace ossature
