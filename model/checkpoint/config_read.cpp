// config.json -> ModelConfig.
#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/checkpoint/config.h"
#include "model/checkpoint/config_fields.h"
#include "model/files/json_file.h"

namespace ossature {
namespace {

using nlohmann::json;

constexpr std::uintmax_t kMaxConfigBytes = 1 << 20;
constexpr std::string_view kAdvice = "; take the config.json that belongs to the weights";

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  fail_json(where, found, expected, kAdvice);
}

/// A JSON object whose values are read by type; every complaint names the key.
class Object {
 public:
  Object(const json& object, const std::string& where, std::string prefix = "")
      : object_(object), where_(where), prefix_(std::move(prefix)) {}

  /// nullptr when the key is absent or null.
  [[nodiscard]] const json* find(std::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] const json& require(std::string_view key, const std::string& expected) const {
    const json* value = find(key);
    if (value == nullptr)
      fail(where_, name(key) + (object_.contains(std::string(key)) ? " is null" : " is missing"), expected);
    return *value;
  }

  [[noreturn]] void refuse(std::string_view key, const json& value, const std::string& expected) const {
    fail(where_, name(key) + " is " + shown(value), expected);
  }

  [[nodiscard]] std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) const {
    const std::string expected = "a whole number from " + std::to_string(min) + " to " + std::to_string(max);
    return integer_of(key, require(key, expected), min, max);
  }

  [[nodiscard]] std::int64_t integer_of(std::string_view key, const json& value, std::int64_t min,
                                        std::int64_t max) const {
    const bool fits =
        value.is_number_integer() &&
        !(value.is_number_unsigned() &&
          value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
    if (!fits || value.get<std::int64_t>() < min || value.get<std::int64_t>() > max)
      refuse(key, value, "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
    return value.get<std::int64_t>();
  }

  [[nodiscard]] std::int64_t integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                        std::int64_t max) const {
    const json* value = find(key);
    return value == nullptr ? fallback : integer_of(key, *value, min, max);
  }

  [[nodiscard]] double number(std::string_view key) const {
    const json& value = require(key, "a number");
    if (!value.is_number()) refuse(key, value, "a number");
    return value.get<double>();
  }

  [[nodiscard]] double number_or(std::string_view key, double fallback) const {
    return find(key) == nullptr ? fallback : number(key);
  }

  [[nodiscard]] bool boolean_or(std::string_view key, bool fallback) const {
    const json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(key, *value, "true or false");
    return value->get<bool>();
  }

  /// For what this program knows one value of only.
  void expect(std::string_view key, const json& only) const {
    const json* value = find(key);
    if (value != nullptr && *value != only) refuse(key, *value, shown(only) + ", as every gpt-oss has it");
  }

  [[nodiscard]] Object child(std::string_view key) const {
    const json& value = require(key, "an object");
    if (!value.is_object()) refuse(key, value, "an object");
    return {value, where_, name(key) + "."};
  }

  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  [[nodiscard]] std::string name(std::string_view key) const { return prefix_ + std::string(key); }

  const json& object_;
  const std::string& where_;
  std::string prefix_;
};

/// Reads transformers' rope_scaling + rope_theta, or version 5's rope_parameters, which holds both. Defaults are those
/// of transformers' modeling_rope_utils.py.
void read_rope(const Object& root, ModelConfig& config) {
  const bool is_v5 = root.find("rope_parameters") != nullptr;
  const Object rope = root.child(is_v5 ? "rope_parameters" : "rope_scaling");
  config.rope_theta = rope.find("rope_theta") != nullptr ? rope.number("rope_theta") : root.number("rope_theta");
  const std::string_view type_key =
      rope.find("rope_type") == nullptr && rope.find("type") != nullptr ? "type" : "rope_type";
  const json& type = rope.require(type_key, "\"yarn\" or \"default\"");
  if (type != "yarn" && type != "default") rope.refuse(type_key, type, "\"yarn\" or \"default\"");
  rope.expect("partial_rotary_factor", 1.0);

  RopeScaling& scaling = config.rope_scaling;
  if (type == "default") {  // YaRN by a factor of 1 changes nothing
    scaling.factor = 1.0;
    scaling.original_max_position_embeddings = config.max_position_embeddings;
    return;
  }
  scaling.factor = rope.number("factor");
  scaling.beta_fast = rope.number_or("beta_fast", 32.0);
  scaling.beta_slow = rope.number_or("beta_slow", 1.0);
  scaling.truncate = rope.boolean_or("truncate", true);
  scaling.original_max_position_embeddings = rope.integer("original_max_position_embeddings", 1, kMaxContext);
  const double attention_factor = scaling.factor <= 1.0 ? 1.0 : 0.1 * std::log(scaling.factor) + 1.0;
  if (std::abs(rope.number_or("attention_factor", attention_factor) - attention_factor) > 1e-6)
    rope.refuse("attention_factor", *rope.find("attention_factor"), std::to_string(attention_factor));
  if (rope.number_or("mscale", 0.0) != 0.0 && rope.number_or("mscale_all_dim", 0.0) != 0.0)
    rope.refuse("mscale", *rope.find("mscale"), "none, as in every gpt-oss");
}

void read_layer_types(const Object& root, ModelConfig& config) {
  const auto num_layers = static_cast<std::size_t>(config.num_hidden_layers);
  const json* types = root.find("layer_types");
  if (types == nullptr) return;
  const std::string expected = "an array of " + std::to_string(num_layers) + " names, one a layer";
  if (!types->is_array()) root.refuse("layer_types", *types, expected);
  if (types->size() != num_layers)
    fail(root.where(), "layer_types has " + std::to_string(types->size()) + " entries", expected);
  for (std::size_t i = 0; i < num_layers; ++i) {
    const json& type = (*types)[i];
    if (type != "sliding_attention" && type != "full_attention")
      root.refuse("layer_types[" + std::to_string(i) + "]", type, "\"sliding_attention\" or \"full_attention\"");
    config.sliding_layers[i] = type == "sliding_attention";
  }
}

/// The first of a list, the number itself, or -1 for null.
std::int64_t read_token(const Object& root, std::string_view key) {
  const json* value = root.find(key);
  if (value == nullptr) return -1;
  const bool is_list = value->is_array() && !value->empty();
  return root.integer_of(key, is_list ? value->front() : *value, 0, kMaxDimension);
}

void read_shape(const Object& root, ModelConfig& config, bool is_openai) {
  for (const IntegerField& field : kShapeFields) {
    std::string_view key = is_openai ? field.openai_key : field.hf_key;
    // transformers saves both keys and reads the first.
    if (key == "num_experts_per_tok" && root.find(key) == nullptr && root.find(field.openai_key) != nullptr)
      key = field.openai_key;
    config.*field.member = root.integer(key, field.min, field.max);
  }
  config.sliding_layers.resize(static_cast<std::size_t>(config.num_hidden_layers));
  for (std::size_t i = 0; i < config.sliding_layers.size(); ++i) config.sliding_layers[i] = i % 2 == 0;
}

ModelConfig read_hf(const Object& root) {
  ModelConfig config;
  root.expect("model_type", "gpt_oss");
  root.expect("hidden_act", "silu");
  root.expect("attention_bias", true);
  root.expect("tie_word_embeddings", false);
  if (root.find("quantization_config") != nullptr) root.child("quantization_config").expect("quant_method", "mxfp4");
  read_shape(root, config, false);
  config.max_position_embeddings =
      root.integer_or("max_position_embeddings", config.max_position_embeddings, 1, kMaxContext);
  read_rope(root, config);
  config.initial_context_length =
      root.integer_or("initial_context_length", config.rope_scaling.original_max_position_embeddings, 1, kMaxContext);
  config.rms_norm_eps = root.number_or("rms_norm_eps", config.rms_norm_eps);
  config.swiglu_limit = root.number_or("swiglu_limit", config.swiglu_limit);
  read_layer_types(root, config);
  config.eos_token_id = read_token(root, "eos_token_id");
  config.pad_token_id = read_token(root, "pad_token_id");
  return config;
}

ModelConfig read_openai(const Object& root) {
  ModelConfig config;
  read_shape(root, config, true);
  config.initial_context_length = root.integer("initial_context_length", 1, kMaxContext);
  config.swiglu_limit = root.number_or("swiglu_limit", config.swiglu_limit);
  config.rope_theta = root.number("rope_theta");
  RopeScaling& scaling = config.rope_scaling;
  scaling.factor = root.number("rope_scaling_factor");
  scaling.beta_slow = root.number("rope_ntk_alpha");
  scaling.beta_fast = root.number("rope_ntk_beta");
  scaling.original_max_position_embeddings = config.initial_context_length;
  const double context = static_cast<double>(config.initial_context_length) * scaling.factor;
  if (!(scaling.factor >= 1.0 && context <= static_cast<double>(kMaxContext)))
    root.refuse("rope_scaling_factor", scaling.factor, "a number from 1 that keeps the context below 2^31");
  config.max_position_embeddings = static_cast<std::int64_t>(context);
  // The layout has no token ids; they are o200k_harmony's where the vocabulary has them.
  if (config.eos_token_id >= config.vocab_size) config.eos_token_id = -1;
  if (config.pad_token_id >= config.vocab_size) config.pad_token_id = -1;
  return config;
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& file) {
  const std::string where = file.string();
  const json parsed = read_json_object(file, kMaxConfigBytes, kAdvice);
  const Object root(parsed, where);
  const bool is_hf = root.find("model_type") != nullptr;
  if (!is_hf && root.find("num_experts") == nullptr)
    fail(where, "it has neither model_type nor num_experts",
         "the config.json of a gpt-oss, transformers' (model_type) or OpenAI's (num_experts)");
  ModelConfig config = is_hf ? read_hf(root) : read_openai(root);
  validate(config, where);
  return config;
}

}  // namespace ossature
