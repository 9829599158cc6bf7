// The files beside a checkpoint's weights that engines need as well.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace ossature {

/// The file `name` of checkpoint directory `dir`, if it is there. OpenAI's original layout lies one directory below its
/// companions, so for a directory named "original" its parent is looked at too.
[[nodiscard]] std::optional<std::filesystem::path> companion_file(const std::filesystem::path& dir,
                                                                  const std::string& name);

/// Copies tokenizer, chat template and generation settings from checkpoint directory `from` to `to`, those that are
/// there.
void copy_companion_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace ossature
