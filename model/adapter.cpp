#include "model/adapter.h"

#include <fstream>
#include <regex>
#include <set>
#include <system_error>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "model/checkpoint.h"
#include "model/safetensors.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";

/// Reads the keys of one adapter_config.json; every failure names the file and the key.
class ConfigReader {
 public:
  ConfigReader(const json& config, std::string where) : config_(config), where_(std::move(where)) {}

  template <typename T>
  [[nodiscard]] T get(const char* key, T otherwise) const {
    const auto found = config_.find(key);
    if (found == config_.end() || found->is_null()) return otherwise;
    try {
      return found->get<T>();
    } catch (const json::exception&) {
      fail(key, "has the value " + found->dump() + ", which is of the wrong kind");
    }
  }
  [[nodiscard]] const json* find(const char* key) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw CheckpointError(where_ + ": " + key + " " + what);
  }

 private:
  const json& config_;
  std::string where_;
};

/// Module names of the model that a regular expression matches in full, as PEFT does with a string.
std::vector<std::string> modules_matching(const std::string& pattern, const ModelConfig& model,
                                          const ConfigReader& reader) {
  if (pattern == "all-linear") return {"q_proj", "k_proj", "v_proj", "o_proj"};
  std::vector<std::string> names;
  try {
    const std::regex expression(pattern);
    for (std::int64_t n = 0; n < model.num_hidden_layers; ++n) {
      for (const char* module : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
        const std::string name = "model.layers." + std::to_string(n) + ".self_attn." + module;
        if (std::regex_match(name, expression)) names.push_back(name);
      }
    }
  } catch (const std::regex_error&) {
    reader.fail("target_modules", "\"" + pattern + "\" is not a regular expression");
  }
  if (names.empty()) reader.fail("target_modules", "\"" + pattern + "\" matches no module of the model");
  return names;
}

LoraConfig parse_config(const json& root, const std::string& where, const ModelConfig& model) {
  const ConfigReader reader(root, where);
  if (reader.get<std::string>("peft_type", "") != "LORA") {
    reader.fail("peft_type",
                "is " + (root.contains("peft_type") ? root["peft_type"].dump() : "missing") + ", expected \"LORA\"");
  }
  for (const char* key : {"use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora"}) {
    if (reader.get<bool>(key, false)) reader.fail(key, "is true, which Ossature does not compute; train without it");
  }
  for (const char* key : {"modules_to_save", "layer_replication", "trainable_token_indices", "exclude_modules",
                          "alora_invocation_tokens", "layers_pattern"}) {
    const json* value = reader.find(key);
    if (value != nullptr && !value->empty())
      reader.fail(key, "is set, which Ossature does not compute; train without it");
  }
  if (reader.get<std::string>("bias", "none") != "none")
    reader.fail("bias", "is not \"none\", which Ossature does not compute");

  LoraConfig config;
  config.r = reader.get<std::int64_t>("r", 8);
  if (config.r < 1 || config.r > (1 << 16))
    reader.fail("r", "is " + std::to_string(config.r) + ", expected 1 to 65536");
  config.lora_alpha = reader.get<double>("lora_alpha", 8.0);  // PEFT's default
  config.lora_dropout = reader.get<double>("lora_dropout", 0.0);
  config.use_rslora = reader.get<bool>("use_rslora", false);
  config.rank_pattern = reader.get<std::map<std::string, std::int64_t>>("rank_pattern", {});
  config.alpha_pattern = reader.get<std::map<std::string, double>>("alpha_pattern", {});
  config.target_parameters = reader.get<std::vector<std::string>>("target_parameters", {});
  if (const json* modules = reader.find("target_modules"); modules != nullptr && modules->is_string()) {
    config.target_modules = modules_matching(modules->get<std::string>(), model, reader);
  } else {
    config.target_modules = reader.get<std::vector<std::string>>("target_modules", {});
  }
  if (const json* layers = reader.find("layers_to_transform"); layers != nullptr && layers->is_number_integer()) {
    config.layers_to_transform = {layers->get<std::int64_t>()};
  } else {
    config.layers_to_transform = reader.get<std::vector<std::int64_t>>("layers_to_transform", {});
  }
  return config;
}

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

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return "[" + std::to_string(shape.at(0)) + ", " + (shape.size() > 1 ? std::to_string(shape[1]) : "") + "]";
}

void write_text(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".tmp";
  std::ofstream out(temporary);
  out << text << std::flush;
  if (!out) throw std::system_error(errno, std::generic_category(), temporary.string());
  out.close();
  fs::rename(temporary, path);
}

json config_json(const Lora& lora, const std::string& base_model) {
  const LoraConfig& config = lora.config();
  const auto null_if_empty = [](const auto& list) { return list.empty() ? json() : json(list); };
  json root;
  root["peft_type"] = "LORA";
  root["task_type"] = "CAUSAL_LM";
  root["peft_version"] = "0.21.0";  // whose format this is
  root["base_model_name_or_path"] = base_model;
  root["revision"] = nullptr;
  root["r"] = config.r;
  root["lora_alpha"] = config.lora_alpha;
  const bool has_experts = std::any_of(lora.targets().begin(), lora.targets().end(), is_expert);
  root["lora_dropout"] = has_experts ? 0.0 : config.lora_dropout;
  root["use_rslora"] = config.use_rslora;
  root["target_modules"] = config.target_modules;
  root["target_parameters"] = null_if_empty(config.target_parameters);
  root["layers_to_transform"] = null_if_empty(config.layers_to_transform);
  root["rank_pattern"] = json(config.rank_pattern).is_null() ? json::object() : json(config.rank_pattern);
  root["alpha_pattern"] = json(config.alpha_pattern).is_null() ? json::object() : json(config.alpha_pattern);
  root["bias"] = "none";
  root["fan_in_fan_out"] = false;
  root["inference_mode"] = true;
  root["init_lora_weights"] = true;
  root["layers_pattern"] = nullptr;
  root["lora_bias"] = false;
  root["modules_to_save"] = nullptr;
  root["exclude_modules"] = nullptr;
  root["use_dora"] = false;
  if (root["lora_alpha"].get<double>() == std::floor(config.lora_alpha)) {
    root["lora_alpha"] = static_cast<std::int64_t>(config.lora_alpha);
  }
  return root;
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
  const fs::path config_path = dir / kConfigFile;
  std::ifstream in(config_path);
  if (!in) {
    throw CheckpointError(config_path.string() + ": cannot be opened; an adapter directory holds " + kConfigFile +
                          " and " + kTensorFile);
  }
  const json root = json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) throw CheckpointError(config_path.string() + ": not a JSON object; copy the file anew");
  const LoraConfig config = parse_config(root, config_path.string(), model);
  const std::vector<LoraTarget> targets = [&] {
    try {
      return lora_targets(config, model);
    } catch (const CheckpointError& error) {
      throw CheckpointError(config_path.string() + ": " + error.what());
    }
  }();

  // Everything is checked against the file before a rank from it decides how much memory is taken.
  const fs::path path = dir / kTensorFile;
  const auto file = SafetensorsFile::open(path);
  const auto both = layers_with_both(targets);
  std::set<std::string> used;
  const auto find = [&](const std::string& key, const std::vector<std::int64_t>& shape) -> const TensorInfo& {
    const TensorInfo* info = file->find(key);
    if (info == nullptr) {
      throw CheckpointError(path.string() + ": tensor " + key + " is missing; " + kConfigFile + " targets it");
    }
    if (info->shape != shape) {
      std::string found;
      for (const auto size : info->shape) found += (found.empty() ? "" : ", ") + std::to_string(size);
      throw CheckpointError(path.string() + ": " + key + ": shape [" + found + "], expected " + shape_text(shape) +
                            " for this model and " + kConfigFile);
    }
    if (info->dtype != DType::kF32 && info->dtype != DType::kBF16 && info->dtype != DType::kF16) {
      throw CheckpointError(path.string() + ": " + key + ": dtype " + std::string(dtype_name(info->dtype)) +
                            ", expected F32, BF16 or F16");
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
      throw CheckpointError(path.string() + ": tensor " + info.name + " belongs to no target of " + kConfigFile +
                            "; the two files are not of one adapter, or the base model is another");
    }
  }

  Lora lora(config, model, 0, device);
  at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    at::Tensor a = lora.a(targets[i]).detach(), b = lora.b(targets[i]).detach();
    a.copy_(from_peft_a(wrap(file, *pairs[i].a), targets[i]));
    b.copy_(from_peft_b(wrap(file, *pairs[i].b), targets[i]));
  }
  if (!lora.parameters().values().isfinite().all().item<bool>()) {
    throw CheckpointError(path.string() + ": holds a value that is not finite; the adapter is damaged");
  }
  return lora;
}

void write_adapter(const Lora& lora, const fs::path& dir, const std::string& base_model) {
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
  const fs::path path = dir / kTensorFile, temporary = path.string() + ".tmp";
  SafetensorsWriter writer(temporary, infos, {{"format", "pt"}});
  for (const auto& [name, tensor] : tensors) {
    writer.write({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  writer.finish();
  fs::rename(temporary, path);
  write_text(dir / kConfigFile, config_json(lora, base_model).dump(2) + "\n");
}

}  // namespace ossature
