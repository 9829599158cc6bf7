#include "model/full_parameters.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/checkpoint_writer.h"
#include "model/staging_directory.h"

namespace ossature {
namespace {

/// The member of `transformer` that holds the tensor of that name (of expert weights: the dense [E, O, I]).
at::Tensor& member(Transformer& transformer, const std::string& name) {
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

}  // namespace

std::unique_ptr<ParameterSet> make_trainable(const Checkpoint& checkpoint, Transformer& transformer) {
  if (checkpoint.experts() != ExpertStorage::kBf16) {
    throw CheckpointError(
        checkpoint.dir().string() +
        ": experts are in MXFP4, which full training cannot change; export it with --experts bf16 first, or "
        "train an adapter (train.mode=lora)");
  }
  std::vector<ParameterSpec> specs;
  for (const TensorShape& tensor : tensor_shapes(checkpoint.config())) {
    const bool is_matrix = tensor.is_expert_weight || (tensor.shape.size() == 2 && tensor.name.ends_with(".weight"));
    specs.push_back({tensor.name, tensor.shape, is_matrix});
  }
  auto parameters = std::make_unique<ParameterSet>(std::move(specs), transformer.device());
  at::NoGradGuard no_grad;
  for (const TensorShape& tensor : tensor_shapes(checkpoint.config())) {
    const at::Tensor& parameter = parameters->tensor(tensor.name);
    parameter.detach().copy_(tensor.is_expert_weight ? checkpoint.expert_weight(tensor.name).dense
                                                     : checkpoint.tensor(tensor.name));
    member(transformer, tensor.name) = parameter;
  }
  return parameters;
}

void write_full_checkpoint(const ParameterSet& parameters, const Checkpoint& checkpoint, bool experts_on_grid,
                           const std::filesystem::path& dir) {
  std::vector<PlannedTensor> planned;
  for (const TensorShape& tensor : tensor_shapes(checkpoint.config())) {
    const at::Tensor value = parameters.tensor(tensor.name).detach();
    std::vector<std::int64_t> shape = tensor.shape;
    if (tensor.is_expert_weight) std::swap(shape[1], shape[2]);
    planned.push_back({tensor.name, DType::kBF16, shape, [=](const ByteSink& sink) {
                         if (!tensor.is_expert_weight) return write_tensor(value.to(at::kBFloat16).cpu(), sink);
                         const at::Tensor experts = experts_on_grid ? mxfp4_round(value) : value;
                         write_tensor(experts.to(at::kBFloat16).cpu().transpose(1, 2), sink);
                       }});
  }
  StagingDirectory staging(dir);
  write_checkpoint_files(staging.path(), planned);
  write_text_file(staging.path() / "config.json", hf_config_json(checkpoint.config(), /*mxfp4=*/false));
  checkpoint.write_companions(staging.path());
  staging.commit();
}

}  // namespace ossature
