#include "data/tokenizer/tokenizer.h"

#include <atomic>
#include <stdexcept>
#include <unordered_map>

#include "data/tokenizer/byte_pairs.h"
#include "data/tokenizer/o200k_splitter.h"
#include "data/tokenizer/split_regex.h"
#include "data/tokenizer/tokenizer_file.h"
#include "data/tokenizer/word_cache.h"
#include "data/tokenizer/word_table.h"
#include "data/utf8.h"

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
  WordTable words;                  // views of `tokens`, without special tokens; empty if merges are never ignored
  Ids specials;                     // views of `tokens`
  std::optional<O200kSplitter> splitter;  // or else `pattern` splits
  SplitRegex pattern;
  BytePairs pairs;
  std::string sha256;
  std::uint64_t number;  // no two have the same

  void encode_word(std::string_view word, const WordKey& key, std::vector<std::int32_t>& ids) const {
    const std::int32_t whole = words.find(word, key);
    if (whole != WordTable::kNone) {
      ids.push_back(whole);
    } else {
      pairs.encode(word, ids);
    }
  }

  void encode(std::string_view text, WordCache& cache, std::vector<std::int32_t>& ids) const {
    const auto encode_new = [this](std::string_view word, const WordKey& key, std::vector<std::int32_t>& out) {
      encode_word(word, key, out);
    };
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = splitter->end_of_word(text, begin);
      cache.encode(text.substr(begin, end - begin), text.size() - begin, ids, encode_new);
      begin = end;
    }
  }
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
  if (file.merges.size() > BytePairs::kMostMerges)
    throw DataError(file_path.string() + ": it has more than 2^24 merges");
  std::vector<Merge> merges;
  merges.reserve(file.merges.size());
  std::string both;
  for (const auto& [left, right] : file.merges) {
    both.assign(left).append(right);
    merges.push_back({id_of(words, left, file_path), id_of(words, right, file_path), id_of(words, both, file_path)});
  }
  WordTable whole(file.ignore_merges ? words.size() : 0);
  if (file.ignore_merges) {
    for (const auto& [bytes, id] : words) whole.add(bytes, id);
  }
  static std::atomic<std::uint64_t> loaded{0};
  // Moving the vector of tokens leaves its strings, and so the views, where they are.
  return Tokenizer(std::make_shared<const Tables>(
      Tables{std::move(file.tokens), std::move(whole), std::move(specials),
             O200kSplitter::knows(file.word_pattern) ? std::optional<O200kSplitter>(std::in_place) : std::nullopt,
             compile(file.word_pattern, file_path), BytePairs(std::move(byte_ids), merges), std::move(file.sha256),
             ++loaded}));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode(text, ids);
  return ids;
}

void Tokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  if (!tables_->splitter) {
    tables_->pattern.split(text, [&](std::string_view word) { tables_->encode_word(word, WordKey::of(word), ids); });
    return;
  }
  if (const std::size_t valid = valid_utf8_prefix(text); valid != text.size()) {
    throw DataError("text is not UTF-8: byte " + std::to_string(valid) + "; convert the file to UTF-8");
  }
  thread_local WordCache cache;
  cache.belong_to(tables_->number);
  tables_->encode(text, cache, ids);
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
