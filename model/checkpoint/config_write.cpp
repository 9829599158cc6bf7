// ModelConfig -> config.json.
#include <cmath>
#include <nlohmann/json.hpp>

#include "model/checkpoint/config.h"

namespace ossature {
namespace {

using nlohmann::json;

/// 150000 rather than 150000.0, as both published files have it.
json number(double value) {
  const bool is_whole = value == std::trunc(value) && std::abs(value) < 9e15;
  return is_whole ? json(static_cast<std::int64_t>(value)) : json(value);
}

json token(std::int64_t id) {
  return id < 0 ? json(nullptr) : json(id);
}

}  // namespace

std::string hf_config_json(const ModelConfig& config, bool mxfp4, const std::vector<std::int64_t>& dense_layers) {
  json layer_types = json::array();
  for (const bool is_sliding : config.sliding_layers)
    layer_types.push_back(is_sliding ? "sliding_attention" : "full_attention");
  const RopeScaling& rope = config.rope_scaling;
  // Keys and constants of the published config.json of gpt-oss-20b, which this reproduces byte for byte.
  json root = {
      {"architectures", {"GptOssForCausalLM"}},
      {"attention_bias", true},
      {"attention_dropout", 0.0},
      {"eos_token_id", token(config.eos_token_id)},
      {"experts_per_token", config.num_experts_per_tok},
      {"head_dim", config.head_dim},
      {"hidden_act", "silu"},
      {"hidden_size", config.hidden_size},
      {"initial_context_length", config.initial_context_length},
      {"initializer_range", 0.02},
      {"intermediate_size", config.intermediate_size},
      {"layer_types", layer_types},
      {"max_position_embeddings", config.max_position_embeddings},
      {"model_type", "gpt_oss"},
      {"num_attention_heads", config.num_attention_heads},
      {"num_experts_per_tok", config.num_experts_per_tok},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_key_value_heads", config.num_key_value_heads},
      {"num_local_experts", config.num_local_experts},
      {"output_router_logits", false},
      {"pad_token_id", token(config.pad_token_id)},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_scaling",
       {{"beta_fast", rope.beta_fast},
        {"beta_slow", rope.beta_slow},
        {"factor", rope.factor},
        {"original_max_position_embeddings", rope.original_max_position_embeddings},
        {"rope_type", "yarn"},
        {"truncate", rope.truncate}}},
      {"rope_theta", number(config.rope_theta)},
      {"router_aux_loss_coef", 0.9},
      {"sliding_window", config.sliding_window},
      {"swiglu_limit", config.swiglu_limit},
      {"tie_word_embeddings", false},
      {"transformers_version", "4.55.0.dev0"},
      {"use_cache", true},
      {"vocab_size", config.vocab_size},
  };
  if (mxfp4) {
    json dense = {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"};
    for (const std::int64_t n : dense_layers) dense.push_back("model.layers." + std::to_string(n) + ".mlp.experts");
    root["quantization_config"] = {{"modules_to_not_convert", dense}, {"quant_method", "mxfp4"}};
  }
  return root.dump(2) + "\n";
}

std::string openai_config_json(const ModelConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  const auto refuse = [](const std::string& key, const std::string& fixed) {
    throw CheckpointError("openai config.json: " + key + " cannot be written in this layout, which fixes " + fixed +
                          "; export to the hf layout instead");
  };
  if (rope.truncate) refuse("rope_scaling.truncate", "false");
  if (rope.original_max_position_embeddings != config.initial_context_length)
    refuse("rope_scaling.original_max_position_embeddings", "it to initial_context_length");
  if (config.rms_norm_eps != 1e-5) refuse("rms_norm_eps", "1e-05");
  for (std::size_t i = 0; i < config.sliding_layers.size(); ++i)
    if (config.sliding_layers[i] != (i % 2 == 0)) refuse("layer_types", "even layers to sliding_attention");

  // In the order of the published file, in Python's json.dumps style.
  const std::vector<std::pair<std::string, json>> entries = {
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_experts", config.num_local_experts},
      {"experts_per_token", config.num_experts_per_tok},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"swiglu_limit", config.swiglu_limit},
      {"head_dim", config.head_dim},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"sliding_window", config.sliding_window},
      {"initial_context_length", config.initial_context_length},
      {"rope_theta", number(config.rope_theta)},
      {"rope_scaling_factor", rope.factor},
      {"rope_ntk_alpha", number(rope.beta_slow)},
      {"rope_ntk_beta", number(rope.beta_fast)},
  };
  std::string text;
  for (const auto& [key, value] : entries) text += (text.empty() ? "{\"" : ", \"") + key + "\": " + value.dump();
  return text + "}";
}

}  // namespace ossature
