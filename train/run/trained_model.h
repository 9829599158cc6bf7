// What a run trains: an adapter on a frozen model, or all of a model's weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "model/adapter/lora.h"
#include "model/checkpoint/checkpoint.h"
#include "model/network/parameters.h"
#include "model/network/transformer.h"
#include "train/recipe/recipe.h"

namespace ossature {

/// A model made ready for training by a recipe.
class TrainedModel {
 public:
  /// Opens recipe.base_model and attaches a new adapter (or the one of lora.init_from), or makes every weight
  /// trainable. Throws CheckpointError as those do.
  explicit TrainedModel(const Recipe& recipe);

  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] const Transformer& transformer() const { return transformer_; }
  /// See Transformer.
  void read_as_used(std::int64_t cached_layers) { transformer_.read_as_used(cached_layers); }
  [[nodiscard]] ParameterSet& parameters() { return lora_ ? lora_->parameters() : *full_; }
  /// nullptr in full mode.
  [[nodiscard]] const Lora* lora() const { return lora_ ? &*lora_ : nullptr; }
  /// Trainable parameters by group, a line each.
  [[nodiscard]] std::string summary() const;

  /// Writes what was trained: PEFT files into run_dir/adapter, or a bfloat16 checkpoint into run_dir/model, in place of
  /// what is there. `experts_on_grid` as in write_full_checkpoint.
  void save(const std::filesystem::path& run_dir, bool experts_on_grid) const;

 private:
  Checkpoint checkpoint_;
  Transformer transformer_;
  std::optional<Lora> lora_;
  std::unique_ptr<ParameterSet> full_;
};

/// The adapter that the recipe's lora section asks for, B still zero. Throws RecipeError if it picks nothing.
[[nodiscard]] Lora adapter_of(const Recipe& recipe, const ModelConfig& model);

/// Parameters that a recipe trains of a model of that shape. Throws RecipeError if its lora section picks nothing.
[[nodiscard]] std::int64_t num_trained(const Recipe& recipe, const Checkpoint& checkpoint);

/// The device that a recipe or `--device` asks for: auto is CUDA if LibTorch has it. Throws RecipeError for CUDA where
/// there is none.
[[nodiscard]] at::Device device_of(Device device);

[[nodiscard]] at::ScalarType scalar_type_of(ComputeDtype dtype);

}  // namespace ossature
