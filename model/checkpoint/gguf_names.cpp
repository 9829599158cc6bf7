#include "model/checkpoint/gguf_names.h"

#include <map>

namespace ossature {

std::vector<std::string> gguf_names(std::string_view name) {
  static const std::map<std::string_view, std::vector<std::string>> kWhole = {
      {"model.embed_tokens.weight", {"token_embd.weight"}},
      {"model.norm.weight", {"output_norm.weight"}},
      {"lm_head.weight", {"output.weight"}},
  };
  static const std::map<std::string_view, std::vector<std::string>> kOfLayer = {
      {"input_layernorm.weight", {"attn_norm.weight"}},
      {"self_attn.q_proj.weight", {"attn_q.weight"}},
      {"self_attn.q_proj.bias", {"attn_q.bias"}},
      {"self_attn.k_proj.weight", {"attn_k.weight"}},
      {"self_attn.k_proj.bias", {"attn_k.bias"}},
      {"self_attn.v_proj.weight", {"attn_v.weight"}},
      {"self_attn.v_proj.bias", {"attn_v.bias"}},
      {"self_attn.o_proj.weight", {"attn_output.weight"}},
      {"self_attn.o_proj.bias", {"attn_output.bias"}},
      {"self_attn.sinks", {"attn_sinks.weight"}},
      {"post_attention_layernorm.weight", {"post_attention_norm.weight"}},
      {"mlp.router.weight", {"ffn_gate_inp.weight"}},
      {"mlp.router.bias", {"ffn_gate_inp.bias"}},
      {"mlp.experts.gate_up_proj", {"ffn_gate_exps.weight", "ffn_up_exps.weight"}},
      {"mlp.experts.gate_up_proj_bias", {"ffn_gate_exps.bias", "ffn_up_exps.bias"}},
      {"mlp.experts.down_proj", {"ffn_down_exps.weight"}},
      {"mlp.experts.down_proj_bias", {"ffn_down_exps.bias"}},
  };
  if (const auto whole = kWhole.find(name); whole != kWhole.end()) return whole->second;
  constexpr std::string_view kPrefix = "model.layers.";
  const auto dot = name.starts_with(kPrefix) ? name.find('.', kPrefix.size()) : std::string_view::npos;
  const auto part = dot == std::string_view::npos ? kOfLayer.end() : kOfLayer.find(name.substr(dot + 1));
  if (part == kOfLayer.end()) return {};
  const std::string block = "blk." + std::string(name.substr(kPrefix.size(), dot - kPrefix.size())) + ".";
  std::vector<std::string> names;
  for (const std::string& found : part->second) names.push_back(block + found);
  return names;
}

bool gguf_is_always_f32(std::string_view name) {
  return name.ends_with("_norm.weight") || name.ends_with(".bias") || name.ends_with("attn_sinks.weight") ||
         name.ends_with("ffn_gate_inp.weight");
}

}  // namespace ossature
