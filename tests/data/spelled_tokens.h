// Tokens written as text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace ossature {

/// Tokens of a text in which special tokens are spelled out, as a model generates them.
inline std::vector<std::int32_t> tokens_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> tokens;
  while (!text.empty()) {
    const auto begin = std::min(text.find("<|"), text.size());
    tokenizer.encode(text.substr(0, begin), tokens);
    text.remove_prefix(begin);
    if (text.empty()) break;
    const auto size = text.find("|>") + 2;
    tokens.push_back(tokenizer.special(text.substr(0, size)).value());
    text.remove_prefix(size);
  }
  return tokens;
}

}  // namespace ossature
