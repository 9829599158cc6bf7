#include "model/network/full_parameters.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/checkpoint/checkpoint_writer.h"
#include "model/files/staging_directory.h"
#include "model/network/transformer_tensors.h"

namespace ossature {

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
    tensor_of(transformer, tensor.name) = parameter;
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
