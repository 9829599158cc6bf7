#include "data/tokenizer/tokenizer_file.h"

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "data/data_error.h"
#include "data/sha256.h"

namespace ossature {
namespace {

using nlohmann::json;

/// More than any tokenizer has; keeps a wrong id from asking for gigabytes.
constexpr std::int64_t kLargestId = (1 << 24) - 1;

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file)
    throw DataError(path.string() +
                    ": cannot be opened; name a tokenizer.json or the folder of a checkpoint that has one");
  std::string bytes(static_cast<std::size_t>(file.tellg()), '\0');
  file.seekg(0);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())))
    throw DataError(path.string() + ": cannot be read to its end");
  return bytes;
}

/// GPT-2's alphabet: bytes that print stand for themselves, the others for the code points from 256 up, in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    byte_of_.fill(-1);
    std::size_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      byte_of_[prints ? static_cast<std::size_t>(byte) : next++] = static_cast<std::int16_t>(byte);
    }
  }

  /// The bytes that `text`, valid UTF-8, stands for; false if it has another character.
  [[nodiscard]] bool decode(std::string_view text, std::string& bytes) const {
    bytes.clear();
    for (std::size_t i = 0; i < text.size(); ++i) {
      std::size_t code = static_cast<unsigned char>(text[i]);
      if (code >= 0xc0 && code < 0xe0 && i + 1 < text.size()) {
        code = (code & 0x1f) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3f);
      } else if (code >= 0x80) {
        return false;
      }
      if (code >= byte_of_.size() || byte_of_[code] < 0) return false;
      bytes += static_cast<char>(byte_of_[code]);
    }
    return true;
  }

 private:
  std::array<std::int16_t, 324> byte_of_{};
};

class FileReader {
 public:
  explicit FileReader(const std::filesystem::path& path) : path_(path) {}

  TokenizerFile read() {
    const std::string bytes = read_bytes(path_);
    parse(bytes);
    if (text(rest_, "model", "type") != "BPE") fail("model.type is not \"BPE\"");
    for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix", "unk_token"}) {
      const json& value = at(rest_["model"], option);
      if (!value.is_null() && value != "") fail("model." + std::string(option) + " is set");
    }
    if (const json& value = at(rest_["model"], "dropout"); !value.is_null() && value != 0.0)
      fail("model.dropout is set");
    if (at(rest_["model"], "byte_fallback") == true) fail("model.byte_fallback is set");
    if (!at(rest_, "normalizer").is_null()) fail("it has a normalizer");
    file_.ignore_merges = at(rest_["model"], "ignore_merges") == true;
    read_words();
    read_added_tokens();
    check_bytes();
    file_.sha256 = sha256_hex(bytes);
    return std::move(file_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(path_.string() + ": not a tokenizer that this program knows: " + what +
                    "; expected byte-level BPE as gpt-oss checkpoints carry it; take the tokenizer.json of the model");
  }

  static const json& at(const json& object, const char* key) {
    static const json kNull;
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() ? *found : kNull;
  }
  static std::string text(const json& object, const char* key, const char* inner) {
    const json& value = at(at(object, key), inner);
    return value.is_string() ? value.get<std::string>() : "";
  }

  /// Vocabulary and merges, nearly all of the file, are taken on the way; only the rest becomes a tree.
  void parse(const std::string& bytes) {
    std::string outer, inner, token, left;
    std::string decoded;
    bool in_vocabulary = false, in_merges = false, has_left = false;
    const auto to_bytes = [&](const std::string& shown) {
      if (!alphabet_.decode(shown, decoded))
        fail("\"" + shown + "\" has a character outside of the byte-level alphabet");
      return decoded;
    };
    const auto take = [&](int depth, json::parse_event_t event, json& value) {
      if (depth == 1 && event == json::parse_event_t::key) outer = value.get_ref<const std::string&>();
      if (depth == 2 && event == json::parse_event_t::key) {
        inner = value.get_ref<const std::string&>();
        in_vocabulary = outer == "model" && inner == "vocab";
        in_merges = outer == "model" && inner == "merges";
      }
      if (depth < 2 || outer != "model") return true;
      if (in_vocabulary && depth == 3) {
        if (event == json::parse_event_t::key) {
          token = value.get_ref<const std::string&>();
        } else if (event == json::parse_event_t::value) {
          add_token(to_bytes(token), value);
        } else {
          fail("the id of \"" + token + "\" is no number");
        }
        return false;
      }
      if (in_merges && depth == 3 && event == json::parse_event_t::value) {  // "left right"
        if (!value.is_string()) fail("a merge is no pair of texts");
        const auto& merge = value.get_ref<const std::string&>();
        const auto space = merge.find(' ');
        if (space == std::string::npos) fail("merge \"" + merge + "\" has no space");
        std::string first = to_bytes(merge.substr(0, space));
        file_.merges.emplace_back(std::move(first), to_bytes(merge.substr(space + 1)));
        return false;
      }
      if (in_merges && depth == 4 && event == json::parse_event_t::value) {  // ["left", "right"]
        if (!value.is_string()) fail("a merge is no pair of texts");
        if (has_left) {
          file_.merges.emplace_back(std::move(left), to_bytes(value.get_ref<const std::string&>()));
        } else {
          left = to_bytes(value.get_ref<const std::string&>());
        }
        has_left = !has_left;
        return false;
      }
      if (in_merges && depth == 3 && event == json::parse_event_t::array_end) {
        if (has_left) fail("a merge is no pair of texts");
        return false;
      }
      return true;
    };
    try {
      rest_ = json::parse(bytes, take);
    } catch (const json::exception& error) {
      fail(error.what());
    }
    if (file_.vocabulary.empty()) fail("it has no model.vocab");
  }

  void add_token(std::string bytes, const json& value) {
    const std::int32_t id = check_id(value, bytes);
    set_token(id, bytes);
    file_.vocabulary.emplace_back(std::move(bytes), id);
  }

  std::int32_t check_id(const json& value, const std::string& name) const {
    if (!value.is_number_integer() || value < 0 || value > kLargestId) {
      fail("the id of \"" + name + "\" is " + value.dump() + ", expected 0 to " + std::to_string(kLargestId));
    }
    return value.get<std::int32_t>();
  }

  void set_token(std::int32_t id, const std::string& bytes) {
    const auto i = static_cast<std::size_t>(id);
    if (i >= file_.tokens.size()) file_.tokens.resize(i + 1);
    if (!file_.tokens[i].empty() && file_.tokens[i] != bytes) {
      fail("id " + std::to_string(id) + " is given to both \"" + file_.tokens[i] + "\" and \"" + bytes + "\"");
    }
    if (bytes.empty()) fail("id " + std::to_string(id) + " has an empty token");
    file_.tokens[i] = bytes;
  }

  /// One Split by a regular expression, then ByteLevel, which only renames bytes.
  void read_words() {
    const json& pre = at(rest_, "pre_tokenizer");
    const json& steps = at(pre, "pretokenizers");
    if (at(pre, "type") != "Sequence" || !steps.is_array() || steps.size() != 2 || at(steps[0], "type") != "Split" ||
        at(steps[1], "type") != "ByteLevel") {
      fail("its pre_tokenizer is not a Split followed by ByteLevel");
    }
    if (at(steps[0], "behavior") != "Isolated" || at(steps[0], "invert") == true) fail("its Split is not \"Isolated\"");
    if (at(steps[1], "use_regex") != false || at(steps[1], "add_prefix_space") == true) {
      fail("its ByteLevel adds spaces or a second regular expression");
    }
    file_.word_pattern = text(steps[0], "pattern", "Regex");
    if (file_.word_pattern.empty()) fail("its Split has no regular expression");
  }

  void read_added_tokens() {
    const json& added = at(rest_, "added_tokens");
    if (!added.is_array() && !added.is_null()) fail("added_tokens is no list");
    std::set<std::string> names;
    for (const json& token : added) {
      if (!at(token, "content").is_string()) fail("an added token has no content");
      const auto name = token["content"].get<std::string>();
      if (at(token, "special") != true) fail("added token \"" + name + "\" is not special");
      if (!names.insert(name).second) fail("added token \"" + name + "\" is there twice");
      const std::int32_t id = check_id(at(token, "id"), name);
      set_token(id, name);
      file_.specials.emplace_back(name, id);
    }
  }

  void check_bytes() const {
    std::array<bool, 256> present{};
    for (const auto& [bytes, id] : file_.vocabulary) {
      if (bytes.size() == 1) present[static_cast<unsigned char>(bytes[0])] = true;
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
      if (!present[byte]) fail("byte " + std::to_string(byte) + " has no token");
    }
  }

  std::filesystem::path path_;
  ByteAlphabet alphabet_;
  TokenizerFile file_;
  json rest_;
};

}  // namespace

TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  return FileReader(path).read();
}

}  // namespace ossature
