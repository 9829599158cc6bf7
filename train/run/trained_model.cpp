#include "train/run/trained_model.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <ATen/ATen.h>

#include "model/adapter/adapter.h"
#include "model/adapter/name_pattern.h"
#include "model/network/full_parameters.h"

namespace ossature {
namespace {

LoraConfig config_of(const LoraOptions& options) {
  LoraConfig config;
  config.r = options.r;
  config.lora_alpha = options.lora_alpha;
  config.lora_dropout = options.lora_dropout;
  config.use_rslora = options.use_rslora;
  config.target_modules = options.target_modules;
  config.target_parameters = options.target_parameters;
  config.layers_to_transform = options.layers_to_transform;
  config.rank_pattern = options.rank_pattern;
  config.alpha_pattern = options.alpha_pattern;
  return config;
}

/// In a file of PEFT's an exception may fit nothing; in a recipe it is a mistake.
template <typename Map>
void check_patterns(const std::string& key, const Map& patterns, const Lora& lora) {
  for (const auto& [pattern, value] : patterns) {
    const NamePattern expression("lora." + key, pattern);
    const auto& targets = lora.targets();
    if (std::none_of(targets.begin(), targets.end(),
                     [&](const LoraTarget& target) { return expression.matches_end(target.name); })) {
      throw RecipeError("lora." + key + ": \"" + pattern +
                        "\" is the end of no targeted weight's name; expected one such as \"" + targets.front().name +
                        "\" or \"q_proj\"");
    }
  }
}

Lora new_adapter(const LoraOptions& options, const ModelConfig& model, std::uint64_t seed, at::Device device) {
  try {
    Lora lora(config_of(options), model, seed, device);
    check_patterns("rank_pattern", options.rank_pattern, lora);
    check_patterns("alpha_pattern", options.alpha_pattern, lora);
    return lora;
  } catch (const CheckpointError& error) {  // of a configuration, here the recipe's own
    throw RecipeError(error.what());
  }
}

/// The adapter of lora.init_from keeps its own shape and scaling; a recipe that asks for others is a mistake.
Lora initial_adapter(const Recipe& recipe, const ModelConfig& model, at::Device device) {
  if (!recipe.lora.init_from) {
    return new_adapter(recipe.lora, model, static_cast<std::uint64_t>(recipe.train.seed), device);
  }
  Lora lora = read_adapter(*recipe.lora.init_from, model, device);
  Lora wanted = new_adapter(recipe.lora, model, 0, device);
  const auto same = [](const LoraTarget& a, const LoraTarget& b) {
    return a.name == b.name && a.r == b.r && a.scale == b.scale;
  };
  if (!std::equal(lora.targets().begin(), lora.targets().end(), wanted.targets().begin(), wanted.targets().end(),
                  same)) {
    throw RecipeError("lora.init_from: the adapter in " + recipe.lora.init_from->string() +
                      " has other targets, ranks or scaling than the recipe's lora section; make the two agree");
  }
  wanted.parameters().values().copy_(lora.parameters().values());
  return wanted;
}

}  // namespace

Lora adapter_of(const Recipe& recipe, const ModelConfig& model) {
  return new_adapter(recipe.lora, model, static_cast<std::uint64_t>(recipe.train.seed), at::kCPU);
}

std::int64_t num_trained(const Recipe& recipe, const Checkpoint& checkpoint) {
  if (recipe.train.mode == TrainMode::kFull) return checkpoint.num_parameters();
  const auto numel = [](const std::vector<std::int64_t>& shape) {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  };
  try {
    std::int64_t sum = 0;
    for (const LoraTarget& target : lora_targets(config_of(recipe.lora), checkpoint.config()))
      sum += numel(target.a_shape) + numel(target.b_shape);
    return sum;
  } catch (const CheckpointError& error) {  // of a configuration, here the recipe's own
    throw RecipeError(error.what());
  }
}

at::Device device_of(Device device) {
  const bool has_cuda = at::globalContext().hasCUDA();
  if (device == Device::kCuda && !has_cuda) {
    throw RecipeError(
        "device: cuda was asked for, but this LibTorch sees no CUDA device; use device=cpu or a CUDA LibTorch");
  }
  return device == Device::kCpu || !has_cuda ? at::Device(at::kCPU) : at::Device(at::kCUDA, 0);
}

at::ScalarType scalar_type_of(ComputeDtype dtype) {
  return dtype == ComputeDtype::kBFloat16 ? at::kBFloat16 : at::kFloat;
}

TrainedModel::TrainedModel(const Recipe& recipe)
    : checkpoint_(recipe.base_model),
      transformer_(checkpoint_, scalar_type_of(recipe.dtype), device_of(recipe.device)) {
  checkpoint_.check_scales();
  if (recipe.train.mode == TrainMode::kFull) {
    full_ = make_trainable(checkpoint_, transformer_);
    return;
  }
  lora_.emplace(initial_adapter(recipe, checkpoint_.config(), transformer_.device()));
  lora_->attach(transformer_);
}

std::string TrainedModel::summary() const {
  if (lora_) return lora_->summary();
  return "  all weights           " + std::to_string(full_->numel()) + " parameters\n";
}

void TrainedModel::save(const std::filesystem::path& run_dir, bool experts_on_grid) const {
  if (lora_) {
    write_adapter(*lora_, run_dir / "adapter", checkpoint_.dir().string());
    return;
  }
  std::filesystem::remove_all(run_dir / "model");
  write_full_checkpoint(*full_, checkpoint_, experts_on_grid, run_dir / "model");
}

}  // namespace ossature
