// A recipe: everything that decides a training run. Read from YAML and from `key=value` arguments, written back in full
// into the run folder. The names of the YAML keys are those of the members; their documentation, ranges and the
// defaults that a reader sees stand in one table, train/recipe/recipe_keys.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace ossature {

/// A recipe or an argument that changes it is wrong. what() lists every error found, one a line:
/// `file:line:column: what was found; what was expected`, or `argument "key=value": ...`. Exit code 2.
class RecipeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Device { kAuto, kCpu, kCuda };
enum class ComputeDtype { kBFloat16, kFloat32 };
enum class TrainMode { kLora, kFull };
enum class LrScheduler { kConstant, kLinear, kCosine };
enum class Recompute { kAuto, kOn, kOff };
enum class OptimizerState { kFloat32, kBFloat16, k8Bit };

/// The low-rank adapter. Names and meaning are PEFT's (LoraConfig), so adapter_config.json is a copy.
struct LoraOptions {
  std::int64_t r = 8;
  double lora_alpha = 16;
  double lora_dropout = 0;
  bool use_rslora = false;
  std::vector<std::string> target_modules{"q_proj", "k_proj", "v_proj", "o_proj"};
  std::vector<std::string> target_parameters{"mlp.experts.gate_up_proj", "mlp.experts.down_proj"};
  std::vector<std::int64_t> layers_to_transform;     // empty: all
  std::map<std::string, std::int64_t> rank_pattern;  // module or parameter name -> r
  std::map<std::string, double> alpha_pattern;       // module or parameter name -> lora_alpha
  std::optional<std::filesystem::path> init_from;    // adapter to start from

  bool operator==(const LoraOptions&) const = default;
};

/// A token file to train on, and how often an epoch sees each of its samples on average: 1 once, 2 twice, 0.5 a half
/// that changes from epoch to epoch, so that two epochs see all.
struct TrainingFile {
  std::filesystem::path path;
  double weight = 1.0;

  bool operator==(const TrainingFile&) const = default;
};

/// Relative paths are relative to the directory that the program runs in, not to the recipe.
struct Recipe {
  std::filesystem::path base_model;
  std::filesystem::path output_dir;
  Device device = Device::kAuto;
  ComputeDtype dtype = ComputeDtype::kBFloat16;
  LoraOptions lora;

  struct Data {
    std::vector<TrainingFile> train;
    std::optional<std::filesystem::path> validation;
    std::int64_t sequence_length = 4096;  // tokens of a row; a longer sample is an error
    bool packing = true;
    bool shuffle = true;
    std::int64_t num_workers = 1;  // threads that read token files
    bool operator==(const Data&) const = default;
  } data;

  struct Train {
    TrainMode mode = TrainMode::kLora;
    std::int64_t micro_batch_size = 1;             // rows of sequence_length tokens computed at once
    std::int64_t gradient_accumulation_steps = 8;  // micro-batches of an optimizer step
    double epochs = 1;
    std::optional<std::int64_t> max_steps;  // ends the run before `epochs` do
    double learning_rate = 2e-4;
    LrScheduler lr_scheduler = LrScheduler::kCosine;
    std::int64_t warmup_steps = 10;
    double min_lr_ratio = 0.1;
    double weight_decay = 0;
    double adam_beta1 = 0.9;
    double adam_beta2 = 0.999;
    double adam_epsilon = 1e-8;
    OptimizerState optimizer_state = OptimizerState::kFloat32;
    double max_grad_norm = 1.0;
    std::int64_t max_skipped_steps = 3;  // whose loss or gradient is not finite; one more ends the run
    Recompute recompute = Recompute::kAuto;
    std::optional<double> memory_limit;  // GiB that may be resident, mapped weights counted; null: what is free
    std::int64_t mxfp4_finish_steps =
        0;  // full mode: the last steps see the experts rounded to MXFP4, straight through
    std::int64_t seed = 0;
    std::optional<std::int64_t> threads;  // null: all processors
    std::int64_t pipeline_stages = 1;     // ranks among which the layers are divided
    bool operator==(const Train&) const = default;
  } train;

  struct Evaluation {
    std::optional<std::int64_t> every_steps = 100;  // null: only at the end
    std::optional<std::int64_t> early_stopping_patience;
    bool keep_best = false;  // the result is the values with the lowest validation loss; so it is with early stopping
    std::vector<std::string> sample_prompts;  // user messages that the model answers at each evaluation
    std::int64_t sample_tokens = 128;         // of a reply at most
    [[nodiscard]] bool keeps_best() const { return keep_best || early_stopping_patience; }
    bool operator==(const Evaluation&) const = default;
  } evaluation;

  struct Checkpointing {
    std::optional<std::int64_t> every_steps = 100;  // null: only at the end
    std::int64_t keep = 3;
    bool operator==(const Checkpointing&) const = default;
  } checkpoint;

  bool operator==(const Recipe&) const = default;
};

/// Reads `file` and applies `overrides` ("train.learning_rate=1e-4", lists as YAML flow "lora.target_modules=[q_proj]";
/// the last of equal keys wins). The result is valid. Throws RecipeError with everything that is wrong in both.
[[nodiscard]] Recipe read_recipe(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// Reads `text` as read_recipe reads a file; `name` stands for the file in messages.
[[nodiscard]] Recipe parse_recipe(const std::string& text, const std::string& name,
                                  std::span<const std::string> overrides = {});

/// Something about a recipe that no single key shows.
struct RecipeProblem {
  std::vector<std::string> keys;  // the keys that disagree; the message stands at the first
  std::string what;               // "what was found; what was expected"
};

/// Checks that keys agree with each other; the range of each by itself is checked as it is read. Empty if all is well.
[[nodiscard]] std::vector<RecipeProblem> validate(const Recipe& recipe);

/// Every key with its value, as YAML that reads back to an equal recipe, to the last bit of every number. A full-mode
/// recipe has no lora section.
[[nodiscard]] std::string to_yaml(const Recipe& recipe);

}  // namespace ossature
