// What a GGUF file says of tokens (llama.cpp, gguf-py/gguf/constants.py, TokenType), and the one tokenizer that
// Ossature translates.
#pragma once

#include <cstdint>

#include <nlohmann/json.hpp>

namespace ossature {

inline constexpr std::int32_t kNormalToken = 1, kControlToken = 3, kUserDefinedToken = 4, kUnusedToken = 5;

/// llama.cpp's name of o200k's way to split a text.
inline constexpr const char* kGgufPreTokenizer = "gpt-4o";

/// All of o200k_harmony's tokenizer.json but its tokens and merges, which are empty here. In the order of the file.
[[nodiscard]] nlohmann::ordered_json o200k_tokenizer_json();

}  // namespace ossature
