// Adapter files as PEFT 0.21 writes them (adapter_config.json, adapter_model.safetensors), read and written, so that
// peft, vLLM and others load ours and we load theirs. Two traps of the format are dealt with here and nowhere else:
//  * if both expert parameters of a layer are targeted, "mlp.experts.base_layer.lora_*" is gate_up_proj and
//  "mlp.experts.lora_*" is
//    down_proj; if one is, its keys are plain "mlp.experts.lora_*", whichever it is;
//  * rows of an expert A are expert-major ([E r, in]), columns of an expert B are rank-major ([out, r E]).
#pragma once

#include <filesystem>
#include <string>

#include "model/adapter/lora.h"

namespace ossature {

/// Reads the adapter in `dir` for a model of shape `model`; its parameters require gradients. Tensors may be float32,
/// bfloat16 or float16. Throws CheckpointError on a missing or unknown tensor, a wrong shape, a target that the model
/// has not got, or a PEFT feature that Ossature does not compute (DoRA, trained biases, modules_to_save, ...): never a
/// part of an adapter.
[[nodiscard]] Lora read_adapter(const std::filesystem::path& dir, const ModelConfig& model,
                                at::Device device = at::kCPU);

/// base_model_name_or_path of the adapter in `dir`: a directory, or a name on the hub; "" if it has none. Throws
/// CheckpointError if adapter_config.json is missing or no JSON object.
[[nodiscard]] std::string adapter_base_model(const std::filesystem::path& dir);

/// Writes both files into `dir` (created if absent), each under a temporary name first. `base_model` goes into the
/// configuration. PEFT refuses a dropout on expert parameters even for inference, so lora_dropout is written as 0 if
/// there are any.
void write_adapter(const Lora& lora, const std::filesystem::path& dir, const std::string& base_model);

/// PEFT's key of a target's pair up to ".lora_A.weight", with the prefix "base_model.model.".
[[nodiscard]] std::string peft_key(const LoraTarget& target, bool both_expert_parameters);

/// PEFT's layout of a pair from ours and back: expert pairs are flattened to two dimensions, others stay as they are.
[[nodiscard]] at::Tensor to_peft_a(const at::Tensor& a);
[[nodiscard]] at::Tensor to_peft_b(const at::Tensor& b);
[[nodiscard]] at::Tensor from_peft_a(const at::Tensor& a, const LoraTarget& target);
[[nodiscard]] at::Tensor from_peft_b(const at::Tensor& b, const LoraTarget& target);

}  // namespace ossature
