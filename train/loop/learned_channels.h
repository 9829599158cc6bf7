// In which of harmony's channels the tokens lie that a step learns.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "data/harmony/segments.h"
#include "data/token_file/token_file.h"
#include "model/network/backpropagation.h"

namespace ossature {

/// The ids of harmony's tokens in `file`: by the tokenizer in the directory `base` if that made the file or the file
/// does not say; else those of o200k_harmony, where they fit the file's vocabulary. Throws DataError if the tokenizer
/// cannot be read.
[[nodiscard]] HarmonyTokens harmony_tokens_of(const TokenFileReader& file, const std::filesystem::path& base);

/// Adds the learned tokens of `rows` to `counts`, by name_of() their kind of segment. They are the targets that
/// backpropagate() counts. Nothing where `harmony` is not known.
void count_learned(const HarmonyTokens& harmony, const TokenRows& rows, std::map<std::string, std::int64_t>& counts);

}  // namespace ossature
