#include "model/network/transformer_tensors.h"

#include <stdexcept>
#include <utility>

namespace ossature {

at::Tensor& tensor_of(Transformer& transformer, const std::string& name) {
  if (name == "model.embed_tokens.weight") return transformer.embed_tokens;
  if (name == "model.norm.weight") return transformer.norm;
  if (name == "lm_head.weight") return transformer.lm_head;
  const std::string prefix = "model.layers.";
  const auto dot = name.find('.', prefix.size());
  Layer& layer = transformer.layers().at(std::stoul(name.substr(prefix.size(), dot - prefix.size())));
  const std::string rest = name.substr(dot + 1);
  if (rest == "input_layernorm.weight") return layer.input_layernorm;
  if (rest == "post_attention_layernorm.weight") return layer.post_attention_layernorm;
  if (rest == "self_attn.sinks") return layer.sinks;
  if (rest == "mlp.experts.gate_up_proj") return layer.experts.gate_up.dense;
  if (rest == "mlp.experts.gate_up_proj_bias") return layer.experts.gate_up_bias;
  if (rest == "mlp.experts.down_proj") return layer.experts.down.dense;
  if (rest == "mlp.experts.down_proj_bias") return layer.experts.down_bias;
  for (auto [module, linear] :
       {std::pair{"self_attn.q_proj", &layer.q_proj}, std::pair{"self_attn.k_proj", &layer.k_proj},
        std::pair{"self_attn.v_proj", &layer.v_proj}, std::pair{"self_attn.o_proj", &layer.o_proj},
        std::pair{"mlp.router", &layer.router}}) {
    if (rest == std::string(module) + ".weight") return linear->weight;
    if (rest == std::string(module) + ".bias") return linear->bias;
  }
  throw std::logic_error("no member for tensor " + name);
}

}  // namespace ossature
