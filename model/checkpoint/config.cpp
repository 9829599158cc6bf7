#include "model/checkpoint/config.h"

#include <cmath>
#include <cstdio>

#include "model/checkpoint/config_fields.h"

namespace ossature {
namespace {

constexpr std::string_view kAdvice = "; take the config.json that belongs to the weights";
constexpr double kMaxParameters = 1125899906842624.0;  // 2^50, a thousand times the largest model there is

std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.12g", value);
  return buffer;
}

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  throw CheckpointError(where + ": " + found + "; expected " + expected + std::string(kAdvice));
}

void check_range(const std::string& where, std::string_view key, std::int64_t value, std::int64_t min,
                 std::int64_t max) {
  if (value < min || value > max)
    fail(where, std::string(key) + " is " + std::to_string(value),
         "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
}

/// `above` is excluded, `max` included. A NaN fails.
void check_number(const std::string& where, std::string_view key, double value, double above, double max) {
  if (!(value > above && value <= max))
    fail(where, std::string(key) + " is " + text(value), "a number above " + text(above) + " and at most " + text(max));
}

void check_multiple(const std::string& where, std::string_view key, std::int64_t value, std::int64_t divisor) {
  if (value % divisor != 0)
    fail(where, std::string(key) + " is " + std::to_string(value), "a multiple of " + std::to_string(divisor));
}

double parameters(const ModelConfig& config) {
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double hidden = real(config.hidden_size);
  const double attention = 2.0 * hidden * (real(config.query_size()) + real(config.key_value_size()));
  const double experts = 3.0 * real(config.num_local_experts) * hidden * real(config.intermediate_size);
  return 2.0 * real(config.vocab_size) * hidden + real(config.num_hidden_layers) * (attention + experts);
}

std::vector<bool> alternating_layers(std::int64_t num_layers) {
  std::vector<bool> sliding(static_cast<std::size_t>(num_layers));
  for (std::size_t i = 0; i < sliding.size(); i += 2) sliding[i] = true;
  return sliding;
}

}  // namespace

void validate(const ModelConfig& config, const std::string& where) {
  for (const IntegerField& field : kShapeFields)
    check_range(where, field.hf_key, config.*field.member, field.min, field.max);
  check_range(where, "max_position_embeddings", config.max_position_embeddings, 1, kMaxContext);
  check_range(where, "initial_context_length", config.initial_context_length, 1, kMaxContext);
  check_range(where, "eos_token_id", config.eos_token_id, -1, kMaxDimension);
  check_range(where, "pad_token_id", config.pad_token_id, -1, kMaxDimension);
  check_multiple(where, "hidden_size", config.hidden_size, 32);  // MXFP4 blocks
  check_multiple(where, "intermediate_size", config.intermediate_size, 32);
  check_multiple(where, "head_dim", config.head_dim, 2);  // rotary halves
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    fail(where,
         "num_attention_heads is " + std::to_string(config.num_attention_heads) + " with num_key_value_heads " +
             std::to_string(config.num_key_value_heads),
         "a multiple of the key-value heads");
  if (config.num_experts_per_tok > config.num_local_experts)
    fail(where,
         "num_experts_per_tok is " + std::to_string(config.num_experts_per_tok) + " with num_local_experts " +
             std::to_string(config.num_local_experts),
         "at most as many as there are experts");
  if (parameters(config) > kMaxParameters)
    fail(where, "hidden_size, num_hidden_layers and the other sizes make " + text(parameters(config)) + " parameters",
         "at most " + text(kMaxParameters));
  if (static_cast<std::int64_t>(config.sliding_layers.size()) != config.num_hidden_layers)
    fail(where, "layer_types has " + std::to_string(config.sliding_layers.size()) + " entries",
         std::to_string(config.num_hidden_layers) + ", one a layer");

  check_number(where, "rms_norm_eps", config.rms_norm_eps, 0.0, 1.0);
  check_number(where, "rope_theta", config.rope_theta, 1.0, 1e12);
  check_number(where, "swiglu_limit", config.swiglu_limit, 0.0, 1e6);
  const RopeScaling& rope = config.rope_scaling;
  if (!(rope.factor >= 1.0 && rope.factor <= 1e6))
    fail(where, "the rotary factor is " + text(rope.factor), "a number from 1 to 1000000");
  check_number(where, "beta_slow", rope.beta_slow, 0.0, 1e6);
  check_number(where, "beta_fast", rope.beta_fast, rope.beta_slow, 1e6);
  check_range(where, "original_max_position_embeddings", rope.original_max_position_embeddings, 1, kMaxContext);
}

std::optional<ModelConfig> preset(std::string_view name) {
  ModelConfig config;  // gpt-oss-20b
  if (name == "gpt-oss-120b") {
    config.num_hidden_layers = 36;
    config.num_local_experts = 128;
  } else if (name == "tiny") {
    config.vocab_size = 1024;
    config.hidden_size = 64;
    config.intermediate_size = 96;
    config.num_hidden_layers = 4;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 32;
    config.num_local_experts = 4;
    config.num_experts_per_tok = 2;
    config.sliding_window = 16;
    config.eos_token_id = 1023;
    config.pad_token_id = 1022;
  } else if (name != "gpt-oss-20b") {
    return std::nullopt;
  }
  config.sliding_layers = alternating_layers(config.num_hidden_layers);
  return config;
}

}  // namespace ossature
