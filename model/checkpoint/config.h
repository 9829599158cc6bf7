// The shape of a gpt-oss model, read from config.json as transformers writes it or as OpenAI's original checkpoint
// does. Field names are config.json's own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/files/checkpoint_error.h"

namespace ossature {

/// YaRN rotary scaling (arXiv 2309.00071). gpt-oss has `truncate: false`: the correction bounds stay fractional.
struct RopeScaling {
  double factor = 32.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  std::int64_t original_max_position_embeddings = 4096;
  bool truncate = false;

  bool operator==(const RopeScaling&) const = default;
};

/// Dimensions and constants of one model. Defaults are those of gpt-oss-20b (its published config.json).
struct ModelConfig {
  std::int64_t vocab_size = 201088;
  std::int64_t hidden_size = 2880;
  std::int64_t intermediate_size = 2880;
  std::int64_t num_hidden_layers = 24;
  std::int64_t num_attention_heads = 64;
  std::int64_t num_key_value_heads = 8;
  std::int64_t head_dim = 64;
  std::int64_t num_local_experts = 32;
  std::int64_t num_experts_per_tok = 4;
  std::int64_t sliding_window = 128;  // tokens a sliding layer sees, itself included
  std::int64_t max_position_embeddings = 131072;
  std::int64_t initial_context_length = 4096;
  double rms_norm_eps = 1e-5;
  double rope_theta = 150000.0;
  double swiglu_limit = 7.0;
  RopeScaling rope_scaling;
  std::vector<bool> sliding_layers;    // [num_hidden_layers], true = sliding_attention; even layers by default
  std::int64_t eos_token_id = 200002;  // -1 if the file names none
  std::int64_t pad_token_id = 199999;  // -1 if the file names none

  bool operator==(const ModelConfig&) const = default;

  [[nodiscard]] std::int64_t query_size() const { return num_attention_heads * head_dim; }
  [[nodiscard]] std::int64_t key_value_size() const { return num_key_value_heads * head_dim; }
};

/// Reads `file` (a config.json of either layout; rope given as rope_scaling + rope_theta or as rope_parameters).
/// Throws CheckpointError on a missing or absurd value, or on a model that is not gpt-oss.
[[nodiscard]] ModelConfig read_config(const std::filesystem::path& file);

/// The preset `name`: gpt-oss-20b, gpt-oss-120b (real shapes) or tiny (half a million parameters, 1,024 tokens).
/// nullopt when there is none of that name.
[[nodiscard]] std::optional<ModelConfig> preset(std::string_view name);

/// Throws CheckpointError naming `where` if a dimension is absurd or two disagree.
void validate(const ModelConfig& config, const std::string& where);

/// config.json in the transformers layout; with `mxfp4` it carries the quantization_config that loaders look for, which
/// excepts the experts of `dense_layers`.
[[nodiscard]] std::string hf_config_json(const ModelConfig& config, bool mxfp4,
                                         const std::vector<std::int64_t>& dense_layers = {});

/// config.json of OpenAI's original layout. Throws CheckpointError if `config` differs from what that layout fixes:
/// even layers slide, rms_norm_eps 1e-5, no truncation, YaRN from initial_context_length.
[[nodiscard]] std::string openai_config_json(const ModelConfig& config);

}  // namespace ossature
