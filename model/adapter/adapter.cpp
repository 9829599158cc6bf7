#include "model/adapter/adapter.h"

#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/adapter_config.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/files/safetensors.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";

bool is_expert(const LoraTarget& target) {
  return target.slot == LoraSlot::kGateUpProj || target.slot == LoraSlot::kDownProj;
}

/// Layers in which both expert parameters are targeted.
std::set<std::int64_t> layers_with_both(const std::vector<LoraTarget>& targets) {
  std::set<std::int64_t> gate_up, both;
  for (const LoraTarget& target : targets) {
    if (target.slot == LoraSlot::kGateUpProj) gate_up.insert(target.layer);
    if (target.slot == LoraSlot::kDownProj && gate_up.count(target.layer) > 0) both.insert(target.layer);
  }
  return both;
}

std::vector<std::int64_t> flat_shape(const std::vector<std::int64_t>& shape, bool is_a) {
  if (shape.size() == 2) return shape;
  return is_a ? std::vector<std::int64_t>{shape[0] * shape[1], shape[2]}
              : std::vector<std::int64_t>{shape[1], shape[2] * shape[0]};
}

at::Tensor finite(const std::shared_ptr<const SafetensorsFile>& file, const TensorInfo& info) {
  const at::Tensor tensor = wrap(file, info);
  if (!tensor.isfinite().all().item<bool>()) {
    throw CheckpointError(file->path().string() + ": " + info.name +
                          ": holds a value that is not finite; expected finite numbers; the adapter is damaged");
  }
  return tensor;
}

}  // namespace

std::string peft_key(const LoraTarget& target, bool both_expert_parameters) {
  std::string name = "base_model.model." + target.name;
  if (target.slot == LoraSlot::kRouter) return name.substr(0, name.size() - std::string(".weight").size());
  if (!is_expert(target)) return name;
  name = name.substr(0, name.rfind('.'));  // the module that holds the parameter
  return both_expert_parameters && target.slot == LoraSlot::kGateUpProj ? name + ".base_layer" : name;
}

at::Tensor to_peft_a(const at::Tensor& a) {
  return a.dim() == 2 ? a : a.reshape({-1, a.size(2)});
}
at::Tensor to_peft_b(const at::Tensor& b) {
  return b.dim() == 2 ? b : b.permute({1, 2, 0}).reshape({b.size(1), -1});
}
at::Tensor from_peft_a(const at::Tensor& a, const LoraTarget& target) {
  return a.reshape(target.a_shape);
}
at::Tensor from_peft_b(const at::Tensor& b, const LoraTarget& target) {
  if (target.b_shape.size() == 2) return b;
  return b.reshape({target.b_shape[1], target.b_shape[2], target.b_shape[0]}).permute({2, 0, 1});
}

Lora read_adapter(const fs::path& dir, const ModelConfig& model, at::Device device) {
  const LoraConfig config = read_adapter_config(dir / kConfigFile, model);
  const std::vector<LoraTarget> targets = lora_targets(config, model);

  // Everything is checked against the file before a rank from it decides how much memory is taken.
  const fs::path path = dir / kTensorFile;
  const auto file = SafetensorsFile::open(path);
  const auto both = layers_with_both(targets);
  std::set<std::string> used;
  const auto find = [&](const std::string& key, const std::vector<std::int64_t>& shape) -> const TensorInfo& {
    const TensorInfo* info = file->find(key);
    if (info == nullptr) {
      throw CheckpointError(path.string() + ": tensor " + key + " is missing; expected one of shape " +
                            shape_text(shape) + ", since " + kConfigFile + " targets it");
    }
    if (info->shape != shape) {
      throw CheckpointError(path.string() + ": " + key + ": shape " + shape_text(info->shape) + "; expected " +
                            shape_text(shape) + " by " + kConfigFile +
                            " and the base model; is the adapter of another model?");
    }
    if (info->dtype != DType::kF32 && info->dtype != DType::kBF16 && info->dtype != DType::kF16) {
      throw CheckpointError(path.string() + ": " + key + ": dtype " + std::string(dtype_name(info->dtype)) +
                            "; expected F32, BF16 or F16; save the adapter in one of these");
    }
    used.insert(key);
    return *info;
  };
  struct Pair {
    const TensorInfo *a, *b;
  };
  std::vector<Pair> pairs;
  for (const LoraTarget& target : targets) {
    const std::string key = peft_key(target, both.count(target.layer) > 0);
    pairs.push_back({&find(key + ".lora_A.weight", flat_shape(target.a_shape, true)),
                     &find(key + ".lora_B.weight", flat_shape(target.b_shape, false))});
  }
  for (const TensorInfo& info : file->tensors()) {
    if (used.count(info.name) == 0) {
      throw CheckpointError(path.string() + ": tensor " + escaped(info.name) +
                            " belongs to no target; expected only those of " + kConfigFile +
                            "; the two files are not of one adapter, or the base model is another");
    }
  }

  Lora lora(config, model, 0, device);
  at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    at::Tensor a = lora.a(targets[i]).detach(), b = lora.b(targets[i]).detach();
    a.copy_(from_peft_a(finite(file, *pairs[i].a), targets[i]));
    b.copy_(from_peft_b(finite(file, *pairs[i].b), targets[i]));
  }
  return lora;
}

std::string adapter_base_model(const fs::path& dir) {
  return read_adapter_base_model(dir / kConfigFile);
}

void write_adapter(const Lora& lora, const fs::path& dir, const std::string& base_model) {
  for (const LoraTarget& target : lora.targets()) {
    if (lora.a(target).isfinite().all().item<bool>() && lora.b(target).isfinite().all().item<bool>()) continue;
    throw CheckpointError(dir.string() + ": not written: the pair of " + target.name +
                          " has a value that is not finite; expected finite numbers, which smaller weights may give");
  }
  fs::create_directories(dir);
  const auto both = layers_with_both(lora.targets());
  std::map<std::string, at::Tensor> tensors;  // in the order of their names, as the safetensors library writes them
  for (const LoraTarget& target : lora.targets()) {
    const std::string key = peft_key(target, both.count(target.layer) > 0);
    tensors[key + ".lora_A.weight"] = to_peft_a(lora.a(target).detach()).cpu().contiguous();
    tensors[key + ".lora_B.weight"] = to_peft_b(lora.b(target).detach()).cpu().contiguous();
  }
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) infos.push_back({name, DType::kF32, tensor.sizes().vec()});
  SafetensorsWriter writer(dir / kTensorFile, infos, {{"format", "pt"}});
  for (const auto& [name, tensor] : tensors) {
    writer.write({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  writer.finish();
  replace_text_file(dir / kConfigFile, adapter_config_json(lora, base_model));
}

}  // namespace ossature
