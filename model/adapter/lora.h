// Which weights get a low-rank pair, and the pairs themselves. The configuration, its matching rules and the
// initialisation are PEFT's (LoraConfig of peft 0.21), so that an adapter means the same to both.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/checkpoint/config.h"
#include "model/network/parameters.h"
#include "model/network/transformer.h"

namespace ossature {

/// Far above any adapter, and low enough that no product of sizes overflows.
inline constexpr std::int64_t kMaxLoraRank = 65536;

/// The keys of PEFT's adapter_config.json that Ossature honours.
struct LoraConfig {
  std::int64_t r = 8;
  double lora_alpha = 16.0;
  double lora_dropout = 0.0;
  bool use_rslora = false;
  /// A module is targeted if its name, such as "model.layers.3.self_attn.q_proj", equals an entry or ends in "." +
  /// entry.
  std::vector<std::string> target_modules;
  /// Parameters that are not modules' weights: "mlp.experts.gate_up_proj", "mlp.experts.down_proj",
  /// "mlp.router.weight"; matched the same way, so "7.mlp.experts.down_proj" is that of layer 7 alone.
  std::vector<std::string> target_parameters;
  /// Restricts target_modules (not target_parameters, nor entries that are full names) to these layers. Empty: all.
  std::vector<std::int64_t> layers_to_transform;
  /// Exceptions to r and lora_alpha: regular expressions that match the end of a name, the first in alphabetical order
  /// (in which PEFT writes its file) before the others.
  std::map<std::string, std::int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
};

/// What can carry a pair, in the order of a layer.
enum class LoraSlot { kQProj, kKProj, kVProj, kOProj, kRouter, kGateUpProj, kDownProj };

/// One targeted weight.
struct LoraTarget {
  std::string name;  // of the weight's module or parameter, such as "model.layers.0.self_attn.q_proj"
  std::int64_t layer = 0;
  LoraSlot slot = LoraSlot::kQProj;
  std::int64_t r = 0;
  double scale = 0.0;                 // lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora
  std::vector<std::int64_t> a_shape;  // [r, in], of experts [E, r, in]
  std::vector<std::int64_t> b_shape;  // [out, r], of experts [E, out, r]
};

/// The targets that `config` picks of a model, layer by layer. Throws CheckpointError if an entry picks nothing, a
/// target_parameters entry also matches a parameter that can carry no pair, or a rank is not in 1 to kMaxLoraRank.
[[nodiscard]] std::vector<LoraTarget> lora_targets(const LoraConfig& config, const ModelConfig& model);

/// An adapter in memory: its targets and their float32 pairs.
class Lora {
 public:
  /// A drawn from U(-1/sqrt(in), 1/sqrt(in)), B zero: the model is unchanged until B moves.
  Lora(LoraConfig config, const ModelConfig& model, std::uint64_t seed, at::Device device = at::kCPU);

  [[nodiscard]] const LoraConfig& config() const { return config_; }
  [[nodiscard]] const std::vector<LoraTarget>& targets() const { return targets_; }
  /// Named target + ".lora_A" and target + ".lora_B".
  [[nodiscard]] ParameterSet& parameters() { return *parameters_; }
  [[nodiscard]] const ParameterSet& parameters() const { return *parameters_; }
  [[nodiscard]] const at::Tensor& a(const LoraTarget& target) const;
  [[nodiscard]] const at::Tensor& b(const LoraTarget& target) const;

  /// Sets the low-rank pair of every targeted weight of `transformer`. The tensors are shared: training the one trains
  /// the other.
  void attach(Transformer& transformer) const;

  /// "attention q_proj k_proj v_proj o_proj: 24 layers, ..." - the trainable count of each group, one a line.
  [[nodiscard]] std::string summary() const;

 private:
  LoraConfig config_;
  std::vector<LoraTarget> targets_;
  std::unique_ptr<ParameterSet> parameters_;
};

/// The low-rank pair of a slot of a layer.
[[nodiscard]] LowRank& low_rank(Layer& layer, LoraSlot slot);

/// PEFT's name of a slot: "q_proj", "experts.gate_up_proj", ...
[[nodiscard]] std::string slot_name(LoraSlot slot);

}  // namespace ossature
