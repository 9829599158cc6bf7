#include "model/checkpoint/gguf_config.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <optional>
#include <type_traits>

#include "model/checkpoint/config_fields.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

constexpr double kSwigluLimit = 7.0;
constexpr std::string_view kYarn = "yarn";
constexpr std::string_view kTruncate = "ossature.rope.scaling.truncate";

struct CountKey {
  std::string_view key;
  std::int64_t ModelConfig::*member;
  std::int64_t min, max;
};
/// Those of the vocabulary's size and of two keys that must agree are dealt with apart.
constexpr std::array<CountKey, 10> kCounts = {{
    {"gpt-oss.block_count", &ModelConfig::num_hidden_layers, 1, kMaxCount},
    {"gpt-oss.context_length", &ModelConfig::max_position_embeddings, 1, kMaxContext},
    {"gpt-oss.embedding_length", &ModelConfig::hidden_size, 32, kMaxDimension},
    {"gpt-oss.feed_forward_length", &ModelConfig::intermediate_size, 32, kMaxDimension},
    {"gpt-oss.attention.head_count", &ModelConfig::num_attention_heads, 1, kMaxCount},
    {"gpt-oss.attention.head_count_kv", &ModelConfig::num_key_value_heads, 1, kMaxCount},
    {"gpt-oss.attention.key_length", &ModelConfig::head_dim, 2, kMaxCount},
    {"gpt-oss.attention.sliding_window", &ModelConfig::sliding_window, 1, kMaxContext},
    {"gpt-oss.expert_count", &ModelConfig::num_local_experts, 1, kMaxCount},
    {"gpt-oss.expert_used_count", &ModelConfig::num_experts_per_tok, 1, kMaxCount},
}};

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  throw CheckpointError(where + ": " + found + "; expected " + expected + "; convert the model anew");
}

/// The double of the fewest digits that rounds to `value`: 1e-05, not what float32 makes of it.
double shortest(float value) {
  std::array<char, 64> text{};
  *std::to_chars(text.data(), text.data() + text.size() - 1, value).ptr = '\0';
  return std::strtod(text.data(), nullptr);
}

std::string text_of(const GgufValue& value) {
  return std::visit(
      [&](const auto& known) -> std::string {
        using T = std::decay_t<decltype(known)>;
        if constexpr (std::is_same_v<T, std::string>) return escaped(known);
        if constexpr (std::is_same_v<T, bool>) return known ? "true" : "false";
        if constexpr (std::is_arithmetic_v<T>) return std::to_string(known);
        return gguf_type_name(value);
      },
      value);
}

/// The key-values of a file, read by kind.
class Values {
 public:
  explicit Values(const GgufFile& file) : file_(file), where_(file.path().string()) {}

  [[noreturn]] void refuse(std::string_view key, const std::string& expected) const {
    const GgufValue* value = file_.find_value(key);
    fail(where_, std::string(key) + (value == nullptr ? " is missing" : " is " + text_of(*value)), expected);
  }

  [[nodiscard]] bool has(std::string_view key) const { return file_.find_value(key) != nullptr; }

  [[nodiscard]] std::int64_t count(std::string_view key, std::int64_t min, std::int64_t max) const {
    const std::string expected = "a whole number from " + std::to_string(min) + " to " + std::to_string(max);
    const GgufValue* value = file_.find_value(key);
    std::optional<std::int64_t> number;
    if (value != nullptr) {
      std::visit(
          [&](const auto& known) {
            using T = std::decay_t<decltype(known)>;
            if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
              if (std::in_range<std::int64_t>(known)) number = static_cast<std::int64_t>(known);
          },
          *value);
    }
    if (!number || *number < min || *number > max) refuse(key, expected);
    return *number;
  }

  [[nodiscard]] double number(std::string_view key) const {
    const GgufValue* value = file_.find_value(key);
    const auto* narrow = value == nullptr ? nullptr : std::get_if<float>(value);
    const auto* wide = value == nullptr ? nullptr : std::get_if<double>(value);
    if (narrow == nullptr && wide == nullptr) refuse(key, "a floating-point number");
    return narrow != nullptr ? shortest(*narrow) : *wide;
  }
  [[nodiscard]] double number_or(std::string_view key, double fallback) const {
    return has(key) ? number(key) : fallback;
  }

  /// For what this program knows one text of only.
  void expect(std::string_view key, std::string_view only, const std::string& expected) const {
    const GgufValue* value = file_.find_value(key);
    const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
    if (text == nullptr || *text != only) refuse(key, expected);
  }

  [[nodiscard]] bool truth_or(std::string_view key, bool fallback) const {
    const GgufValue* value = file_.find_value(key);
    if (value == nullptr) return fallback;
    const auto* truth = std::get_if<bool>(value);
    if (truth == nullptr) refuse(key, "true or false");
    return *truth;
  }

 private:
  const GgufFile& file_;
  std::string where_;
};

void read_rope(const Values& values, ModelConfig& config) {
  config.rope_theta = values.number("gpt-oss.rope.freq_base");
  RopeScaling& rope = config.rope_scaling;
  if (!values.has("gpt-oss.rope.scaling.type")) {  // YaRN by a factor of 1 changes nothing
    rope.factor = 1.0;
    rope.original_max_position_embeddings = config.initial_context_length = config.max_position_embeddings;
    return;
  }
  values.expect("gpt-oss.rope.scaling.type", kYarn, "\"yarn\", as every gpt-oss has it");
  rope.factor = values.number("gpt-oss.rope.scaling.factor");
  rope.original_max_position_embeddings = values.count("gpt-oss.rope.scaling.original_context_length", 1, kMaxContext);
  rope.beta_fast = values.number_or("gpt-oss.rope.scaling.yarn_beta_fast", rope.beta_fast);
  rope.beta_slow = values.number_or("gpt-oss.rope.scaling.yarn_beta_slow", rope.beta_slow);
  rope.truncate = values.truth_or(kTruncate, false);
  config.initial_context_length = rope.original_max_position_embeddings;
}

}  // namespace

GgufKeyValues gguf_config(const ModelConfig& config) {
  const auto refuse = [](const std::string& key, const std::string& fixed) {
    throw CheckpointError("gguf: " + key + " cannot be told in a GGUF file: llama.cpp fixes " + fixed +
                          "; export to the hf layout instead");
  };
  for (std::size_t i = 0; i < config.sliding_layers.size(); ++i)
    if (config.sliding_layers[i] != (i % 2 == 0)) refuse("layer_types", "even layers to sliding_attention");
  if (config.swiglu_limit != kSwigluLimit) refuse("swiglu_limit", "it to 7");

  const auto count = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  const auto real = [](double value) { return static_cast<float>(value); };
  const RopeScaling& rope = config.rope_scaling;
  GgufKeyValues values;
  for (const CountKey& key : kCounts) values.emplace_back(key.key, count(config.*key.member));
  values.emplace_back("gpt-oss.expert_feed_forward_length", count(config.intermediate_size));
  values.emplace_back("gpt-oss.attention.value_length", count(config.head_dim));
  values.emplace_back("gpt-oss.attention.layer_norm_rms_epsilon", real(config.rms_norm_eps));
  values.emplace_back("gpt-oss.rope.freq_base", real(config.rope_theta));
  values.emplace_back("gpt-oss.rope.scaling.type", std::string(kYarn));
  values.emplace_back("gpt-oss.rope.scaling.factor", real(rope.factor));
  values.emplace_back("gpt-oss.rope.scaling.original_context_length", count(rope.original_max_position_embeddings));
  values.emplace_back("gpt-oss.rope.scaling.yarn_beta_fast", real(rope.beta_fast));
  values.emplace_back("gpt-oss.rope.scaling.yarn_beta_slow", real(rope.beta_slow));
  if (rope.truncate) values.emplace_back(kTruncate, true);
  return values;
}

ModelConfig read_gguf_config(const GgufFile& file) {
  const std::string where = file.path().string();
  const Values values(file);
  if (values.has("general.type"))
    values.expect("general.type", "model", "\"model\"; an adapter is not a model of its own");
  values.expect("general.architecture", kGgufArchitecture, "\"gpt-oss\", the one architecture that Ossature knows");
  if (values.has("split.count") && values.count("split.count", 0, kMaxCount) > 1)
    values.refuse("split.count", "a model in one file (llama-gguf-split --merge makes it)");

  ModelConfig config;
  for (const CountKey& key : kCounts) config.*key.member = values.count(key.key, key.min, key.max);
  const auto agree = [&](std::string_view key, std::int64_t value) {
    if (values.has(key)) (void)values.count(key, value, value);
  };
  agree("gpt-oss.expert_feed_forward_length", config.intermediate_size);
  agree("gpt-oss.attention.value_length", config.head_dim);
  agree("gpt-oss.rope.dimension_count", config.head_dim);
  config.rms_norm_eps = values.number("gpt-oss.attention.layer_norm_rms_epsilon");
  read_rope(values, config);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) config.sliding_layers.push_back(i % 2 == 0);

  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    fail(where, "it has no matrix token_embd.weight", "the tensors of a gpt-oss");
  config.vocab_size = embedding->shape.front();
  agree("gpt-oss.vocab_size", config.vocab_size);
  const auto token = [&](std::string_view key) { return values.has(key) ? values.count(key, 0, kMaxDimension) : -1; };
  config.eos_token_id = token("tokenizer.ggml.eos_token_id");
  config.pad_token_id = token("tokenizer.ggml.padding_token_id");
  validate(config, where);
  return config;
}

}  // namespace ossature
