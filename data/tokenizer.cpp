#include "data/tokenizer.h"

#include <stdexcept>
#include <unordered_map>

#include "data/byte_pairs.h"
#include "data/split_regex.h"
#include "data/tokenizer_file.h"

namespace ossature {
namespace {

using Ids = std::unordered_map<std::string_view, std::int32_t>;

std::int32_t id_of(const Ids& ids, std::string_view bytes, const std::filesystem::path& path) {
  const auto found = ids.find(bytes);
  if (found == ids.end()) {
    throw DataError(path.string() + ": a merge makes \"" + std::string(bytes) +
                    "\", which is not in model.vocab; take the tokenizer.json of the model");
  }
  return found->second;
}

SplitRegex compile(const std::string& pattern, const std::filesystem::path& path) {
  try {
    return SplitRegex(pattern);
  } catch (const std::invalid_argument& error) {
    throw DataError(path.string() + ": its regular expression is wrong: " + error.what() +
                    "; take the tokenizer.json of the model");
  }
}

}  // namespace

struct Tokenizer::Tables {
  std::vector<std::string> tokens;  // by id
  Ids words;                        // views of `tokens`, without special tokens
  Ids specials;                     // views of `tokens`
  SplitRegex pattern;
  BytePairs pairs;
  bool ignore_merges;
  std::string sha256;
};

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const auto file_path = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  TokenizerFile file = read_tokenizer_file(file_path);
  Ids words, specials;
  words.reserve(file.vocabulary.size());
  for (const auto& [bytes, id] : file.vocabulary) words.emplace(file.tokens[static_cast<std::size_t>(id)], id);
  for (const auto& [name, id] : file.specials) specials.emplace(file.tokens[static_cast<std::size_t>(id)], id);

  std::vector<std::int32_t> byte_ids(256);
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids[static_cast<std::size_t>(byte)] = words.at(std::string_view(&c, 1));
  }
  std::vector<Merge> merges;
  merges.reserve(file.merges.size());
  std::string both;
  for (const auto& [left, right] : file.merges) {
    both.assign(left).append(right);
    merges.push_back({id_of(words, left, file_path), id_of(words, right, file_path), id_of(words, both, file_path)});
  }
  // Moving the vector of tokens leaves its strings, and so the views, where they are.
  return Tokenizer(std::make_shared<const Tables>(
      Tables{std::move(file.tokens), std::move(words), std::move(specials), compile(file.word_pattern, file_path),
             BytePairs(std::move(byte_ids), merges), file.ignore_merges, std::move(file.sha256)}));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode(text, ids);
  return ids;
}

void Tokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  tables_->pattern.split(text, [&](std::string_view word) {
    const auto whole = tables_->ignore_merges ? tables_->words.find(word) : tables_->words.end();
    if (whole != tables_->words.end()) {
      ids.push_back(whole->second);
    } else {
      tables_->pairs.encode(word, ids);
    }
  });
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += bytes_of(id);
  return text;
}

std::string_view Tokenizer::bytes_of(std::int32_t id) const {
  const auto i = static_cast<std::size_t>(id);
  return id >= 0 && i < tables_->tokens.size() ? std::string_view(tables_->tokens[i]) : std::string_view();
}

std::optional<std::int32_t> Tokenizer::special(std::string_view name) const {
  const auto found = tables_->specials.find(name);
  return found == tables_->specials.end() ? std::nullopt : std::optional(found->second);
}

bool Tokenizer::is_special(std::int32_t id) const {
  return tables_->specials.contains(bytes_of(id));
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(tables_->tokens.size());
}
const std::string& Tokenizer::sha256() const {
  return tables_->sha256;
}

}  // namespace ossature
