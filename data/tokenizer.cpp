#include "data/tokenizer.h"

#include <array>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <queue>
#include <sstream>
#include <unordered_map>

#include "data/sha256.h"
#include "data/split_regex.h"

namespace ossature {
namespace {

using nlohmann::json;

/// What two neighbouring tokens become, and how early.
struct Merge {
  std::int32_t rank;
  std::int32_t id;
};

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

struct PairHash {
  std::size_t operator()(std::uint64_t key) const {
    key *= 0x9e3779b97f4a7c15u;
    return key ^ (key >> 32);
  }
};

/// Byte-level BPE writes bytes as printable characters (GPT-2's encoder.py): those of Latin-1 that are printable stand
/// for themselves, the others for U+0100 and up, in order. Returns the byte of each such character, by code point.
std::array<int, 324> byte_of_character() {
  std::array<int, 324> bytes{};
  bytes.fill(-1);
  std::size_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    bytes[is_printable ? static_cast<std::size_t>(byte) : next++] = byte;
  }
  return bytes;
}

/// The bytes that a vocabulary entry stands for; nullopt if a character of it stands for none.
std::optional<std::string> decode_entry(const std::string& entry) {
  static const std::array<int, 324> kBytes = byte_of_character();
  std::string bytes;
  for (std::size_t i = 0; i < entry.size(); ++i) {
    std::size_t character = static_cast<unsigned char>(entry[i]);
    if (character >= 0xc0 && character < 0xe0 && i + 1 < entry.size()) {  // all of them have at most two bytes in UTF-8
      character = (character & 0x1f) << 6 | (static_cast<unsigned char>(entry[++i]) & 0x3f);
    } else if (character >= 0x80) {
      return std::nullopt;
    }
    if (character >= kBytes.size() || kBytes[character] < 0) return std::nullopt;
    bytes += static_cast<char>(kBytes[character]);
  }
  return bytes;
}

}  // namespace

struct Tokenizer::Tables {
  std::string where;
  std::string sha256;
  std::unique_ptr<SplitRegex> pattern;
  bool ignore_merges = false;
  std::vector<std::string> bytes;                          // by id
  std::vector<bool> is_special;                            // by id
  std::unordered_map<std::string_view, std::int32_t> ids;  // views of `bytes`
  std::unordered_map<std::uint64_t, Merge, PairHash> merges;
  std::array<std::int32_t, 256> byte_ids{};
  std::unordered_map<std::string, std::int32_t> specials;

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(where + ": " + what + "; expected a byte-level BPE tokenizer.json as gpt-oss carries it");
  }

  void read(const std::string& text);
  void read_pattern(const json& root);
  void read_vocabulary(const json& model);
  void read_merges(const json& model);
  void read_specials(const json& root);
  void place(std::int32_t id, std::string value);
  void encode_piece(std::string_view piece, std::vector<std::int32_t>& out) const;
};

void Tokenizer::Tables::read(const std::string& text) {
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object() || !root.contains("model") || !root["model"].is_object())
    fail("no JSON object with a \"model\"");
  const json& model = root["model"];
  if (model.value("type", json()) != "BPE") fail("the model is not of type BPE");
  if (root.contains("normalizer") && !root["normalizer"].is_null()) fail("it has a normalizer");
  if (model.value("byte_fallback", false)) fail("it has byte_fallback");
  ignore_merges = model.value("ignore_merges", false);
  read_pattern(root);
  read_vocabulary(model);
  read_merges(model);
  read_specials(root);
}

void Tokenizer::Tables::read_pattern(const json& root) {
  const json steps = root.value("/pre_tokenizer/pretokenizers"_json_pointer, json::array());
  const bool is_known = root.value("/pre_tokenizer/type"_json_pointer, json()) == "Sequence" && steps.size() == 2 &&
                        steps[0].value("type", json()) == "Split" && steps[0].value("behavior", json()) == "Isolated" &&
                        !steps[0].value("invert", false) &&
                        steps[0].value("/pattern/Regex"_json_pointer, json()).is_string() &&
                        steps[1].value("type", json()) == "ByteLevel" && !steps[1].value("add_prefix_space", true) &&
                        !steps[1].value("use_regex", true);
  if (!is_known) fail("the pre-tokenizer is not a Split by a regular expression followed by ByteLevel");
  try {
    pattern = std::make_unique<SplitRegex>(steps[0]["pattern"]["Regex"].get<std::string>());
  } catch (const std::invalid_argument& error) {
    fail(std::string("the regular expression of the pre-tokenizer is wrong: ") + error.what());
  }
}

void Tokenizer::Tables::place(std::int32_t id, std::string value) {
  constexpr std::int32_t kLargestId = 1 << 24;
  if (id < 0 || id > kLargestId) fail("token id " + std::to_string(id));
  const auto i = static_cast<std::size_t>(id);
  if (i >= bytes.size()) bytes.resize(i + 1);
  if (!bytes[i].empty()) fail("token id " + std::to_string(id) + " is given twice");
  bytes[i] = std::move(value);
}

void Tokenizer::Tables::read_vocabulary(const json& model) {
  if (!model.contains("vocab") || !model["vocab"].is_object()) fail("the model has no \"vocab\"");
  const json& vocab = model["vocab"];
  bytes.reserve(vocab.size() + 1024);
  for (const auto& [entry, id] : vocab.items()) {
    auto value = decode_entry(entry);
    if (!value || value->empty() || !id.is_number_integer())
      fail("vocabulary entry \"" + entry + "\" is not of byte-level BPE");
    place(id.get<std::int32_t>(), std::move(*value));
  }
  ids.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (!bytes[i].empty()) ids.emplace(bytes[i], static_cast<std::int32_t>(i));
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    const auto found = ids.find(std::string_view(&character, 1));
    if (found == ids.end()) fail("the vocabulary has no token for byte " + std::to_string(byte));
    byte_ids[byte] = found->second;
  }
}

void Tokenizer::Tables::read_merges(const json& model) {
  if (!model.contains("merges") || !model["merges"].is_array()) fail("the model has no \"merges\"");
  const auto id_of = [&](const std::string& entry) {
    const auto value = decode_entry(entry);
    const auto found = value ? ids.find(*value) : ids.end();
    if (found == ids.end()) fail("a merge names \"" + entry + "\", which is not in the vocabulary");
    return found->second;
  };
  merges.reserve(model["merges"].size());
  std::int32_t rank = 0;
  for (const json& merge : model["merges"]) {
    std::string left, right;  // ["a", "b"], or "a b" in older files
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else if (merge.is_string() && merge.get_ref<const std::string&>().find(' ') != std::string::npos) {
      const std::string& both = merge.get_ref<const std::string&>();
      left = both.substr(0, both.find(' '));
      right = both.substr(both.find(' ') + 1);
    } else {
      fail("merge " + std::to_string(rank) + " is not a pair");
    }
    merges.try_emplace(pair_key(id_of(left), id_of(right)), Merge{rank, id_of(left + right)});
    ++rank;
  }
}

void Tokenizer::Tables::read_specials(const json& root) {
  const json added = root.value("added_tokens", json::array());
  for (const json& token : added) {
    if (!token.is_object() || !token.value("content", json()).is_string() ||
        !token.value("id", json()).is_number_integer()) {
      fail("an entry of added_tokens has no content or id");
    }
    const auto name = token["content"].get<std::string>();
    const auto id = token["id"].get<std::int32_t>();
    place(id, name);
    specials.emplace(name, id);
  }
  is_special.assign(bytes.size(), false);
  for (const auto& [name, id] : specials) is_special[static_cast<std::size_t>(id)] = true;
  // `bytes` may have moved since the views were made.
  ids.clear();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (!bytes[i].empty() && !is_special[i]) ids.emplace(bytes[i], static_cast<std::int32_t>(i));
  }
}

/// Joins the pair of lowest rank, the leftmost of equals, until none is left.
void Tokenizer::Tables::encode_piece(std::string_view piece, std::vector<std::int32_t>& out) const {
  if (ignore_merges || piece.size() == 1) {
    if (const auto whole = ids.find(piece); whole != ids.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  struct Symbol {
    std::int32_t id, previous, next;  // positions in the list; -1: none, or joined to its left neighbour
  };
  struct Candidate {
    std::int32_t rank, left, left_id, right_id, merged;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  const auto size = static_cast<std::int32_t>(piece.size());
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (std::int32_t i = 0; i < size; ++i) {
    symbols.push_back(
        {byte_ids[static_cast<unsigned char>(piece[static_cast<std::size_t>(i)])], i - 1, i + 1 < size ? i + 1 : -1});
  }
  const auto at = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const std::int32_t right_id = at(at(left).next).id;
    const auto found = merges.find(pair_key(at(left).id, right_id));
    if (found != merges.end()) queue.push({found->second.rank, left, at(left).id, right_id, found->second.id});
  };
  for (std::int32_t i = 0; i + 1 < size; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.left);
    // A candidate is stale once either side has been joined to something else.
    if (left.id != best.left_id || left.next < 0 || at(left.next).id != best.right_id) continue;
    Symbol& right = at(left.next);
    left.id = best.merged;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.left;
    right.id = -1;
    offer(left.previous);
    offer(best.left);
  }
  for (std::int32_t i = 0; i >= 0; i = at(i).next) out.push_back(at(i).id);
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const auto file = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  std::ifstream in(file, std::ios::binary);
  if (!in)
    throw DataError(file.string() +
                    ": cannot be opened; give a directory with a tokenizer.json, such as the base model's");
  std::ostringstream content;
  content << in.rdbuf();
  const std::string text = std::move(content).str();
  auto tables = std::make_shared<Tables>();
  tables->where = file.string();
  tables->sha256 = sha256_hex(text);
  try {
    tables->read(text);
  } catch (const json::exception& error) {
    tables->fail(error.what());
  }
  return Tokenizer(std::move(tables));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> out;
  encode(text, out);
  return out;
}

void Tokenizer::encode(std::string_view text, std::vector<std::int32_t>& out) const {
  tables_->pattern->split(text, [&](std::string_view piece) { tables_->encode_piece(piece, out); });
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += bytes_of(id);
  return text;
}

std::string_view Tokenizer::bytes_of(std::int32_t id) const {
  if (id < 0 || id >= static_cast<std::int32_t>(tables_->bytes.size())) return {};
  return tables_->bytes[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> Tokenizer::special(std::string_view name) const {
  const auto found = tables_->specials.find(std::string(name));
  return found == tables_->specials.end() ? std::nullopt : std::optional(found->second);
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && static_cast<std::size_t>(id) < tables_->is_special.size() &&
         tables_->is_special[static_cast<std::size_t>(id)];
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(tables_->bytes.size());
}
const std::string& Tokenizer::sha256() const {
  return tables_->sha256;
}

}  // namespace ossature
