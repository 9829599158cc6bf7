// The tokenizer that a checkpoint brings.
#pragma once

#include <filesystem>

#include "data/tokenizer/tokenizer.h"

namespace ossature {

/// tokenizer.json in the folder `model`, or what the GGUF file `model` has of one, which is written as one for a while.
/// Throws DataError if there is none.
[[nodiscard]] Tokenizer tokenizer_of(const std::filesystem::path& model);

}  // namespace ossature
