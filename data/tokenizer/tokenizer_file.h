// What tokenizer.json says, read and checked. Internal to data/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace ossature {

struct TokenizerFile {
  std::string word_pattern;         // the regular expression whose matches are encoded one by one
  bool ignore_merges = false;       // a whole word of the vocabulary is taken as it is
  std::vector<std::string> tokens;  // bytes by id, special tokens' names included; "" where there is none
  std::vector<std::pair<std::string, std::int32_t>> vocabulary;  // bytes and id of the tokens that merges make
  std::vector<std::pair<std::string, std::string>> merges;       // bytes left and right, most important first
  std::vector<std::pair<std::string, std::int32_t>> specials;    // name and id
  std::string sha256;
};

/// Throws DataError if the file is unreadable or of another kind than byte-level BPE.
[[nodiscard]] TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

}  // namespace ossature
