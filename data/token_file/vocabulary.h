// Whether token files belong to a model and to each other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "data/token_file/token_file.h"

namespace ossature {

/// Throws DataError if `file` may hold ids that the model in the folder `model`, of `vocab_size` tokens, does not know.
void check_vocabulary(const TokenFileReader& file, std::int64_t vocab_size, const std::filesystem::path& model);

/// Throws DataError unless all were made with one tokenizer: vocabularies of one size, and one tokenizer.json where
/// that is known.
void check_same_tokenizer(std::span<const std::shared_ptr<const TokenFileReader>> files);

}  // namespace ossature
