// The files beside a checkpoint's weights that engines need as well.
#pragma once

#include <filesystem>

namespace ossature {

/// Copies tokenizer, chat template and generation settings from checkpoint directory `from` to `to`, those that are
/// there. OpenAI's original layout lies one directory below them, so for a directory named "original" its parent is
/// looked at too.
void copy_companion_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace ossature
