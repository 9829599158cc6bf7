// The one table of a configuration's numbers: their keys in both layouts and their bounds.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "model/checkpoint/config.h"

namespace ossature {

/// A whole number of config.json. `openai_key` is empty where OpenAI's layout has no such key.
struct IntegerField {
  std::string_view hf_key;
  std::string_view openai_key;
  std::int64_t ModelConfig::*member;
  std::int64_t min;
  std::int64_t max;
};

/// Limits far above any gpt-oss, and low enough that no product of two of them overflows.
inline constexpr std::int64_t kMaxDimension = std::int64_t{1} << 24;
inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 16;
inline constexpr std::int64_t kMaxContext = std::int64_t{1} << 31;

/// Required in the layouts that have them.
inline constexpr std::array<IntegerField, 10> kShapeFields = {{
    {"vocab_size", "vocab_size", &ModelConfig::vocab_size, 2, kMaxDimension},
    {"hidden_size", "hidden_size", &ModelConfig::hidden_size, 32, kMaxDimension},
    {"intermediate_size", "intermediate_size", &ModelConfig::intermediate_size, 32, kMaxDimension},
    {"num_hidden_layers", "num_hidden_layers", &ModelConfig::num_hidden_layers, 1, kMaxCount},
    {"num_attention_heads", "num_attention_heads", &ModelConfig::num_attention_heads, 1, kMaxCount},
    {"num_key_value_heads", "num_key_value_heads", &ModelConfig::num_key_value_heads, 1, kMaxCount},
    {"head_dim", "head_dim", &ModelConfig::head_dim, 2, kMaxCount},
    {"num_local_experts", "num_experts", &ModelConfig::num_local_experts, 1, kMaxCount},
    {"num_experts_per_tok", "experts_per_token", &ModelConfig::num_experts_per_tok, 1, kMaxCount},
    {"sliding_window", "sliding_window", &ModelConfig::sliding_window, 1, kMaxContext},
}};

}  // namespace ossature
