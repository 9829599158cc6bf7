#include "model/checkpoint/gguf_tokenizer.h"

#include <fstream>
#include <iterator>
#include <optional>

#include "model/checkpoint/companions.h"
#include "model/checkpoint/gguf_token_types.h"
#include "model/files/json_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uintmax_t kMaxTokenizerBytes = 256 << 20, kMaxConfigBytes = 16 << 20;
constexpr std::string_view kAdvice = "; take the tokenizer files that belong to the model";

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  fail_json(where, found, expected, kAdvice);
}

const json& require(const json& object, const char* key, const std::string& where, const std::string& expected) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end()) fail(where, std::string(key) + " is missing", expected);
  return *found;
}

/// The pattern is compared as text: another way to write the same splits would be taken for another tokenizer.
void check_splitter(const json& tokenizer, const std::string& where) {
  const std::string expected = "the two of o200k, which llama.cpp knows as " + std::string(kGgufPreTokenizer);
  const json& pre = require(tokenizer, "pre_tokenizer", where, expected);
  // Compared by content: the order of keys says nothing.
  if (pre != json(o200k_tokenizer_json()["pre_tokenizer"])) fail(where, "pre_tokenizer is " + shown(pre), expected);
  const auto normalizer = tokenizer.find("normalizer");
  if (normalizer != tokenizer.end() && !normalizer->is_null())
    fail(where, "normalizer is " + shown(*normalizer), "none, as o200k has it");
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
};

/// The id of a token, below the vocabulary's size.
std::size_t checked_id(const json& id, const std::string& token, std::size_t size, const std::string& where) {
  if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= size)
    fail(where, "the token " + shown(token) + " has the id " + shown(id),
         "a whole number below the vocab_size of " + std::to_string(size));
  return id.get<std::size_t>();
}

bool looks_special(const std::string& token) {
  return token.starts_with("<|") && token.ends_with("|>");
}

Tokens tokens_of(const json& tokenizer, std::size_t size, const std::string& where) {
  Tokens tokens{std::vector<std::string>(size), std::vector<std::int32_t>(size, kUnusedToken)};
  for (std::size_t id = 0; id < size; ++id) tokens.texts[id] = "[PAD" + std::to_string(id) + "]";
  const json& model = require(tokenizer, "model", where, "an object");
  const json& vocabulary = require(model, "vocab", where, "an object of tokens");
  if (!vocabulary.is_object()) fail(where, "model.vocab is " + shown(vocabulary), "an object of tokens");
  for (const auto& [token, value] : vocabulary.items()) {
    const std::size_t id = checked_id(value, token, size, where);
    if (tokens.types[id] != kUnusedToken) fail(where, "two tokens have the id " + std::to_string(id), "one");
    tokens.texts[id] = token;
    tokens.types[id] = kNormalToken;
  }
  const auto added = tokenizer.find("added_tokens");
  if (added == tokenizer.end()) return tokens;
  for (const json& entry : *added) {
    const json& content = require(entry, "content", where, "the text of an added token");
    if (!content.is_string()) fail(where, "an added token is " + shown(content), "a text");
    const auto text = content.get<std::string>();
    const std::size_t id = checked_id(require(entry, "id", where, "the id of an added token"), text, size, where);
    const bool is_special = entry.contains("special") && entry["special"] == true;
    tokens.texts[id] = text;
    tokens.types[id] = is_special || looks_special(text) ? kControlToken : kUserDefinedToken;
  }
  return tokens;
}

/// "left right" of each pair. A space, which byte-level tokens have not got, would be ambiguous.
std::vector<std::string> merges_of(const json& tokenizer, const std::string& where) {
  const json& model = require(tokenizer, "model", where, "an object");
  const json& merges = require(model, "merges", where, "an array of pairs");
  const auto refuse = [&](const json& merge) {
    fail(where, "a merge is " + shown(merge), "two tokens without a space");
  };
  if (!merges.is_array()) fail(where, "model.merges is " + shown(merges), "an array of pairs");
  std::vector<std::string> pairs;
  pairs.reserve(merges.size());
  for (const json& merge : merges) {
    std::string pair;
    if (merge.is_string()) {
      pair = merge.get<std::string>();
    } else {
      if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) refuse(merge);
      pair = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
    const auto space = pair.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == pair.size() || pair.rfind(' ') != space) refuse(merge);
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

/// The id of the token that tokenizer_config.json gives for `key`, as a text or as an object with its content.
std::optional<std::uint32_t> special_id(const json& config, const char* key, const json& tokenizer) {
  const auto found = config.find(key);
  if (found == config.end()) return std::nullopt;
  const json content = found->is_object() ? found->value("content", json()) : *found;
  const auto added = tokenizer.find("added_tokens");
  if (!content.is_string() || added == tokenizer.end()) return std::nullopt;
  for (const json& entry : *added)
    if (entry["content"] == content) return entry["id"].get<std::uint32_t>();
  return std::nullopt;
}

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in && !in.eof()) fail(path.string(), "it cannot be read", "a readable file");
  return text;
}

}  // namespace

GgufKeyValues gguf_tokenizer(const fs::path& dir, const ModelConfig& config) {
  GgufKeyValues values;
  const auto path = companion_file(dir, "tokenizer.json");
  if (!path) {
    values.emplace_back("tokenizer.ggml.model", std::string("none"));
    values.emplace_back("gpt-oss.vocab_size", static_cast<std::uint32_t>(config.vocab_size));
    for (const auto& [key, id] : {std::pair{"tokenizer.ggml.eos_token_id", config.eos_token_id},
                                  std::pair{"tokenizer.ggml.padding_token_id", config.pad_token_id}})
      if (id >= 0) values.emplace_back(key, static_cast<std::uint32_t>(id));
    return values;
  }
  const std::string where = path->string();
  const json tokenizer = read_json_object(*path, kMaxTokenizerBytes, kAdvice);
  check_splitter(tokenizer, where);
  Tokens tokens = tokens_of(tokenizer, static_cast<std::size_t>(config.vocab_size), where);
  values.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  values.emplace_back("tokenizer.ggml.pre", std::string(kGgufPreTokenizer));
  values.emplace_back("tokenizer.ggml.tokens", GgufArray(std::move(tokens.texts)));
  values.emplace_back("tokenizer.ggml.token_type", GgufArray(std::move(tokens.types)));
  values.emplace_back("tokenizer.ggml.merges", GgufArray(merges_of(tokenizer, where)));

  const auto settings_path = companion_file(dir, "tokenizer_config.json");
  const json settings = settings_path ? read_json_object(*settings_path, kMaxConfigBytes, kAdvice) : json::object();
  const auto id_of = [&](const char* key, std::int64_t fallback) -> std::optional<std::uint32_t> {
    if (const auto id = special_id(settings, key, tokenizer)) return id;
    return fallback < 0 ? std::nullopt : std::optional(static_cast<std::uint32_t>(fallback));
  };
  if (const auto id = id_of("bos_token", -1)) values.emplace_back("tokenizer.ggml.bos_token_id", *id);
  if (const auto id = id_of("eos_token", config.eos_token_id)) values.emplace_back("tokenizer.ggml.eos_token_id", *id);
  if (const auto id = id_of("pad_token", config.pad_token_id))
    values.emplace_back("tokenizer.ggml.padding_token_id", *id);
  // A byte-level post-processor adds none.
  values.emplace_back("tokenizer.ggml.add_bos_token", false);
  values.emplace_back("tokenizer.ggml.add_eos_token", false);

  const auto found = settings.find("chat_template");
  const auto template_path = companion_file(dir, "chat_template.jinja");
  std::string chat_template = template_path ? read_text(*template_path) : "";
  if (found != settings.end() && found->is_string()) chat_template = found->get<std::string>();
  if (!chat_template.empty()) values.emplace_back("tokenizer.chat_template", std::move(chat_template));
  return values;
}

}  // namespace ossature
