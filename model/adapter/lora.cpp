#include "model/adapter/lora.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/name_pattern.h"
#include "model/checkpoint/checkpoint.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

/// One thing in a layer that can be targeted, with the sizes of its weight.
struct Candidate {
  LoraSlot slot;
  const char* name;   // after "model.layers.N."
  bool is_parameter;  // targeted by target_parameters rather than target_modules
  bool is_expert;
  std::int64_t in;
  std::int64_t out;
};

std::array<Candidate, 7> candidates(const ModelConfig& model) {
  const auto hidden = model.hidden_size;
  return {{
      {LoraSlot::kQProj, "self_attn.q_proj", false, false, hidden, model.query_size()},
      {LoraSlot::kKProj, "self_attn.k_proj", false, false, hidden, model.key_value_size()},
      {LoraSlot::kVProj, "self_attn.v_proj", false, false, hidden, model.key_value_size()},
      {LoraSlot::kOProj, "self_attn.o_proj", false, false, model.query_size(), hidden},
      {LoraSlot::kRouter, "mlp.router.weight", true, false, hidden, model.num_local_experts},
      {LoraSlot::kGateUpProj, "mlp.experts.gate_up_proj", true, true, hidden, 2 * model.intermediate_size},
      {LoraSlot::kDownProj, "mlp.experts.down_proj", true, true, model.intermediate_size, hidden},
  }};
}

bool ends_with_entry(const std::string& name, const std::string& entry) {
  return name == entry || name.ends_with("." + entry);
}

std::string known_names(bool parameters) {
  return parameters ? "mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.router.weight"
                    : "q_proj, k_proj, v_proj, o_proj";
}

/// Values that differ for some names.
template <typename T>
class Exceptions {
 public:
  Exceptions(const std::map<std::string, T>& patterns, const char* key) : patterns_(key, keys_of(patterns)) {
    for (const auto& [pattern, value] : patterns) values_.push_back(value);
  }
  [[nodiscard]] T look_up(const std::string& name, T otherwise) const {
    const auto found = patterns_.first_match(name);
    return found ? values_[*found] : otherwise;
  }

 private:
  static std::vector<std::string> keys_of(const std::map<std::string, T>& patterns) {
    std::vector<std::string> keys;
    for (const auto& [pattern, value] : patterns) keys.push_back(pattern);
    return keys;
  }
  NamePatterns patterns_;
  std::vector<T> values_;
};

/// PEFT's target_parameters picks every parameter that an entry matches; one that can carry no pair must not be left
/// out silently.
void refuse_other_parameters(const LoraConfig& config, const ModelConfig& model) {
  for (const TensorShape& tensor : tensor_shapes(model)) {
    if (tensor.is_expert_weight || tensor.name.ends_with(".mlp.router.weight")) continue;
    for (const std::string& entry : config.target_parameters) {
      if (!ends_with_entry(tensor.name, entry)) continue;
      throw CheckpointError("lora.target_parameters: " + escaped(entry) + " matches " + tensor.name +
                            "; expected to match only " + known_names(true) + "; name projections in target_modules");
    }
  }
}

}  // namespace

std::vector<LoraTarget> lora_targets(const LoraConfig& config, const ModelConfig& model) {
  std::vector<bool> module_matched(config.target_modules.size()), parameter_matched(config.target_parameters.size());
  for (const auto layer : config.layers_to_transform) {
    if (layer < 0 || layer >= model.num_hidden_layers) {
      throw CheckpointError("lora.layers_to_transform: " + std::to_string(layer) +
                            " is not a layer; the model has layers 0 to " +
                            std::to_string(model.num_hidden_layers - 1));
    }
  }
  refuse_other_parameters(config, model);
  const Exceptions<std::int64_t> ranks(config.rank_pattern, "lora.rank_pattern");
  const Exceptions<double> alphas(config.alpha_pattern, "lora.alpha_pattern");
  const auto layer_allowed = [&](std::int64_t layer) {
    const auto& layers = config.layers_to_transform;
    return layers.empty() || std::find(layers.begin(), layers.end(), layer) != layers.end();
  };

  std::vector<LoraTarget> targets;
  for (std::int64_t n = 0; n < model.num_hidden_layers; ++n) {
    for (const Candidate& candidate : candidates(model)) {
      const std::string name = "model.layers." + std::to_string(n) + "." + candidate.name;
      const auto& entries = candidate.is_parameter ? config.target_parameters : config.target_modules;
      auto& matched = candidate.is_parameter ? parameter_matched : module_matched;
      bool is_targeted = false;
      for (std::size_t i = 0; i < entries.size(); ++i) {
        if (!ends_with_entry(name, entries[i])) continue;
        if (!candidate.is_parameter && name != entries[i] && !layer_allowed(n)) continue;
        matched[i] = true;
        is_targeted = true;
      }
      if (!is_targeted) continue;
      LoraTarget target;
      target.name = name;
      target.layer = n;
      target.slot = candidate.slot;
      target.r = ranks.look_up(name, config.r);
      if (target.r < 1 || target.r > kMaxLoraRank) {
        throw CheckpointError("lora.r: " + std::to_string(target.r) + " for " + name + "; expected 1 to " +
                              std::to_string(kMaxLoraRank));
      }
      const double alpha = alphas.look_up(name, config.lora_alpha);
      const auto rank = static_cast<double>(target.r);
      target.scale = alpha / (config.use_rslora ? std::sqrt(rank) : rank);
      target.a_shape = {target.r, candidate.in};
      target.b_shape = {candidate.out, target.r};
      if (candidate.is_expert) {
        target.a_shape.insert(target.a_shape.begin(), model.num_local_experts);
        target.b_shape.insert(target.b_shape.begin(), model.num_local_experts);
      }
      targets.push_back(std::move(target));
    }
  }
  const auto require_all = [](const std::vector<bool>& matched, const std::vector<std::string>& entries,
                              bool parameters) {
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (!matched[i]) {
        throw CheckpointError(std::string("lora.") + (parameters ? "target_parameters" : "target_modules") + ": " +
                              escaped(entries[i]) + " picks nothing of the model; expected " + known_names(parameters) +
                              " (optionally after a layer number and a dot), in a layer of layers_to_transform");
      }
    }
  };
  require_all(module_matched, config.target_modules, false);
  require_all(parameter_matched, config.target_parameters, true);
  if (targets.empty())
    throw CheckpointError("lora: no weight is targeted; expected target_modules or target_parameters to name some");
  return targets;
}

std::string slot_name(LoraSlot slot) {
  switch (slot) {
    case LoraSlot::kQProj:
      return "q_proj";
    case LoraSlot::kKProj:
      return "k_proj";
    case LoraSlot::kVProj:
      return "v_proj";
    case LoraSlot::kOProj:
      return "o_proj";
    case LoraSlot::kRouter:
      return "router";
    case LoraSlot::kGateUpProj:
      return "experts.gate_up_proj";
    case LoraSlot::kDownProj:
      return "experts.down_proj";
  }
  throw std::logic_error("unknown slot");
}

LowRank& low_rank(Layer& layer, LoraSlot slot) {
  switch (slot) {
    case LoraSlot::kQProj:
      return layer.q_proj.low_rank;
    case LoraSlot::kKProj:
      return layer.k_proj.low_rank;
    case LoraSlot::kVProj:
      return layer.v_proj.low_rank;
    case LoraSlot::kOProj:
      return layer.o_proj.low_rank;
    case LoraSlot::kRouter:
      return layer.router.low_rank;
    case LoraSlot::kGateUpProj:
      return layer.experts.gate_up_low_rank;
    case LoraSlot::kDownProj:
      return layer.experts.down_low_rank;
  }
  throw std::logic_error("unknown slot");
}

Lora::Lora(LoraConfig config, const ModelConfig& model, std::uint64_t seed, at::Device device)
    : config_(std::move(config)), targets_(lora_targets(config_, model)) {
  std::vector<ParameterSpec> specs;
  for (const LoraTarget& target : targets_) {
    specs.push_back({target.name + ".lora_A", target.a_shape});
    specs.push_back({target.name + ".lora_B", target.b_shape});
  }
  parameters_ = std::make_unique<ParameterSet>(std::move(specs), device);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  at::NoGradGuard no_grad;
  for (const LoraTarget& target : targets_) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(target.a_shape.back()));
    const at::Tensor drawn = at::empty(target.a_shape, at::kFloat).uniform_(-bound, bound, generator);
    at::Tensor values = a(target).detach();
    values.copy_(drawn);
  }
}

const at::Tensor& Lora::a(const LoraTarget& target) const {
  return parameters_->tensor(target.name + ".lora_A");
}
const at::Tensor& Lora::b(const LoraTarget& target) const {
  return parameters_->tensor(target.name + ".lora_B");
}

void Lora::attach(Transformer& transformer) const {
  for (const LoraTarget& target : targets_) {
    low_rank(transformer.layers()[static_cast<std::size_t>(target.layer)], target.slot) = {
        a(target), b(target), target.scale, config_.lora_dropout};
  }
}

std::string Lora::summary() const {
  struct Group {
    std::int64_t layers = 0;
    std::int64_t parameters = 0;
    std::vector<std::int64_t> ranks;
  };
  std::map<LoraSlot, Group> groups;
  for (const LoraTarget& target : targets_) {
    Group& group = groups[target.slot];
    ++group.layers;
    group.parameters += a(target).numel() + b(target).numel();
    if (std::find(group.ranks.begin(), group.ranks.end(), target.r) == group.ranks.end())
      group.ranks.push_back(target.r);
  }
  std::ostringstream out;
  for (const auto& [slot, group] : groups) {
    out << "  " << slot_name(slot) << std::string(22 - slot_name(slot).size(), ' ') << group.layers
        << (group.layers == 1 ? " layer, r " : " layers, r ");
    for (std::size_t i = 0; i < group.ranks.size(); ++i) out << (i > 0 ? "/" : "") << group.ranks[i];
    out << ", " << group.parameters << " parameters\n";
  }
  out << "  trainable in all      " << parameters_->numel() << " parameters\n";
  return out.str();
}

}  // namespace ossature
