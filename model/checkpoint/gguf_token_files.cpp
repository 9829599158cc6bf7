// The key-values "tokenizer.*" -> tokenizer files.
#include <nlohmann/json.hpp>

#include "model/checkpoint/checkpoint_writer.h"
#include "model/checkpoint/gguf_token_types.h"
#include "model/checkpoint/gguf_tokenizer.h"

namespace ossature {
namespace {

using nlohmann::ordered_json;

[[noreturn]] void fail(const GgufFile& file, const std::string& found, const std::string& expected) {
  throw CheckpointError(file.path().string() + ": " + found + "; expected " + expected + "; convert the model anew");
}

template <typename T>
const T* find(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.find_value(key);
  return value == nullptr ? nullptr : std::get_if<T>(value);
}

template <typename T>
const std::vector<T>& array(const GgufFile& file, const std::string& key) {
  const auto* value = find<GgufArray>(file, key);
  const auto* elements = value == nullptr ? nullptr : std::get_if<std::vector<T>>(value);
  if (elements == nullptr) fail(file, key + " is missing or of another type", "a list, as every tokenizer has it");
  return *elements;
}

ordered_json added_token(std::size_t id, const std::string& text, bool is_special) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", is_special}};
}

std::string tokenizer_json(const GgufFile& file) {
  const auto& tokens = array<std::string>(file, "tokenizer.ggml.tokens");
  const auto& types = array<std::int32_t>(file, "tokenizer.ggml.token_type");
  if (tokens.size() != types.size())
    fail(file,
         "it has " + std::to_string(tokens.size()) + " tokens and " + std::to_string(types.size()) + " types of tokens",
         "as many of both");
  ordered_json root = o200k_tokenizer_json();
  // Behind the map's own insertion, which looks through all keys before it.
  ordered_json::object_t::Container& vocabulary = root["model"]["vocab"].get_ref<ordered_json::object_t&>();
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] == kNormalToken) {
      vocabulary.emplace_back(tokens[id], id);
    } else if (types[id] != kUnusedToken) {
      root["added_tokens"].push_back(added_token(id, tokens[id], types[id] == kControlToken));
    }
  }
  for (const std::string& merge : array<std::string>(file, "tokenizer.ggml.merges")) {
    const auto space = merge.find(' ');
    if (space == std::string::npos) fail(file, "a merge has no space", "two tokens with a space between them");
    root["model"]["merges"].push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  try {
    return root.dump(2);
  } catch (const ordered_json::exception&) {
    fail(file, "a token is not UTF-8", "UTF-8");
  }
}

std::string tokenizer_config_json(const GgufFile& file) {
  const auto& tokens = array<std::string>(file, "tokenizer.ggml.tokens");
  ordered_json root = ordered_json::object();
  for (const auto& [name, key] :
       {std::pair{"bos_token", "tokenizer.ggml.bos_token_id"}, std::pair{"eos_token", "tokenizer.ggml.eos_token_id"},
        std::pair{"pad_token", "tokenizer.ggml.padding_token_id"}}) {
    const auto* id = find<std::uint32_t>(file, key);
    if (id == nullptr) continue;
    if (*id >= tokens.size()) fail(file, std::string(key) + " is " + std::to_string(*id), "the id of a token");
    root[name] = tokens[*id];
  }
  root["model_input_names"] = {"input_ids", "attention_mask"};
  root["tokenizer_class"] = "PreTrainedTokenizerFast";
  return root.dump(2) + "\n";
}

}  // namespace

void write_gguf_tokenizer(const GgufFile& file, const std::filesystem::path& dir) {
  const auto* chat_template = find<std::string>(file, "tokenizer.chat_template");
  if (chat_template != nullptr) write_text_file(dir / "chat_template.jinja", *chat_template);
  const auto* pre = find<std::string>(file, "tokenizer.ggml.pre");
  if (pre == nullptr || *pre != kGgufPreTokenizer) return;
  write_text_file(dir / "tokenizer.json", tokenizer_json(file));
  write_text_file(dir / "tokenizer_config.json", tokenizer_config_json(file));
}

nlohmann::ordered_json o200k_tokenizer_json() {
  static const std::string kPattern =
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
      R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const ordered_json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kPattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const auto byte_level = [](bool add_prefix_space, bool trim_offsets, bool use_regex) -> ordered_json {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", add_prefix_space},
            {"trim_offsets", trim_offsets},
            {"use_regex", use_regex}};
  };
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", ordered_json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"}, {"pretokenizers", ordered_json::array({split, byte_level(false, true, false)})}}},
          {"post_processor", byte_level(true, false, true)},
          {"decoder", byte_level(true, true, true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", true},
            {"vocab", ordered_json::object()},
            {"merges", ordered_json::array()}}}};
}

}  // namespace ossature
