#include "train/recipe/recipe_keys.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "train/recipe/recipe_codec.h"

namespace ossature {
namespace {

/// The key at `path` whose value is the member that `member` returns of a recipe.
template <class Member>
RecipeKey key(std::string path, std::string doc, Member member, Range range = {}) {
  using T = std::remove_cvref_t<decltype(member(std::declval<Recipe&>()))>;
  RecipeKey result;
  result.path = std::move(path);
  result.expected = Codec<T>::expected(range);
  result.doc = std::move(doc);
  result.set = [member, range](const YamlNode& node, Recipe& recipe) {
    return Codec<T>::read(node, range, member(recipe));
  };
  result.culprit = [range](const YamlNode& node) {
    if constexpr (requires { Codec<T>::culprit(node, range); }) return Codec<T>::culprit(node, range);
    return &node;
  };
  result.get = [member](const Recipe& recipe) { return Codec<T>::write(member(recipe)); };
  return result;
}

RecipeKey required(RecipeKey key) {
  key.required = true;
  return key;
}

std::vector<RecipeKey> make_keys() {
  return {
      required(key(
          "base_model", "Checkpoint directory of the model to adapt, in any public layout",
          [](auto& r) -> auto& { return r.base_model; })),
      required(key(
          "output_dir", "Run folder to create: metrics, checkpoints, the adapter",
          [](auto& r) -> auto& { return r.output_dir; })),
      key(
          "device", "Where to compute; auto takes CUDA if there is a GPU", [](auto& r) -> auto& { return r.device; }),
      key(
          "dtype", "Compute type; float32 for checks of parity", [](auto& r) -> auto& { return r.dtype; }),

      key(
          "lora.r", "Rank; more adapts more and costs memory linearly", [](auto& r) -> auto& { return r.lora.r; },
          between(1, 4096)),
      key(
          "lora.lora_alpha", "The update is scaled by lora_alpha / r",
          [](auto& r) -> auto& { return r.lora.lora_alpha; }, above(0)),
      key(
          "lora.lora_dropout", "Share of the adapter's inputs set to zero in training",
          [](auto& r) -> auto& { return r.lora.lora_dropout; }, below_one()),
      key(
          "lora.use_rslora", "Scale by lora_alpha / sqrt(r) instead",
          [](auto& r) -> auto& { return r.lora.use_rslora; }),
      key(
          "lora.target_modules", "Linear layers to adapt, by the end of their name",
          [](auto& r) -> auto& { return r.lora.target_modules; }),
      key(
          "lora.target_parameters", "Expert parameters to adapt, by the end of their name",
          [](auto& r) -> auto& { return r.lora.target_parameters; }),
      key(
          "lora.layers_to_transform", "Layers to adapt, from 0; [] adapts all",
          [](auto& r) -> auto& { return r.lora.layers_to_transform; }, at_least(0)),
      key(
          "lora.rank_pattern", "Other ranks for some targets, by the end of their name",
          [](auto& r) -> auto& { return r.lora.rank_pattern; }, between(1, 4096)),
      key(
          "lora.alpha_pattern", "Other lora_alpha for some targets, by the end of their name",
          [](auto& r) -> auto& { return r.lora.alpha_pattern; }, above(0)),
      key(
          "lora.init_from", "Adapter directory to start from instead of a new adapter",
          [](auto& r) -> auto& { return r.lora.init_from; }),

      required(key(
          "data.train",
          "Token files made by `ossature prepare`; weight: how often an epoch sees each sample of a file, 1 if not "
          "given",
          [](auto& r) -> auto& { return r.data.train; }, between(0.001, 1000))),
      key(
          "data.validation", "Token file that is evaluated and never learned",
          [](auto& r) -> auto& { return r.data.validation; }),
      key(
          "data.sequence_length", "Tokens of a row; a longer sample is an error",
          [](auto& r) -> auto& { return r.data.sequence_length; }, between(2, 131072)),
      key(
          "data.packing", "Put several samples into a row; they never see each other",
          [](auto& r) -> auto& { return r.data.packing; }),
      key(
          "data.shuffle", "New order of the samples in each epoch", [](auto& r) -> auto& { return r.data.shuffle; }),
      key(
          "data.num_workers", "Threads that read token files ahead; what is read does not depend on it",
          [](auto& r) -> auto& { return r.data.num_workers; }, between(1, 64)),

      key(
          "train.mode", "Train an adapter, or all weights of a bfloat16 checkpoint",
          [](auto& r) -> auto& { return r.train.mode; }),
      key(
          "train.micro_batch_size", "Rows computed at once", [](auto& r) -> auto& { return r.train.micro_batch_size; },
          at_least(1)),
      key(
          "train.gradient_accumulation_steps", "Micro-batches of an optimizer step",
          [](auto& r) -> auto& { return r.train.gradient_accumulation_steps; }, at_least(1)),
      key(
          "train.epochs", "Passes over the data", [](auto& r) -> auto& { return r.train.epochs; },
          Range{0, false, 10'000, true}),
      key(
          "train.max_steps", "Optimizer steps after which to end, if the epochs have not",
          [](auto& r) -> auto& { return r.train.max_steps; }, at_least(1)),
      key(
          "train.learning_rate", "Largest learning rate", [](auto& r) -> auto& { return r.train.learning_rate; },
          Range{0, false, 1, true}),
      key(
          "train.lr_scheduler", "Shape of the learning rate after the warm-up",
          [](auto& r) -> auto& { return r.train.lr_scheduler; }),
      key(
          "train.warmup_steps", "Steps in which the learning rate rises to its largest",
          [](auto& r) -> auto& { return r.train.warmup_steps; }, at_least(0)),
      key(
          "train.min_lr_ratio", "Learning rate at the end, as a share of the largest",
          [](auto& r) -> auto& { return r.train.min_lr_ratio; }, between(0, 1)),
      key(
          "train.weight_decay", "AdamW's decoupled weight decay", [](auto& r) -> auto& { return r.train.weight_decay; },
          at_least(0)),
      key(
          "train.adam_beta1", "AdamW's beta1", [](auto& r) -> auto& { return r.train.adam_beta1; }, below_one()),
      key(
          "train.adam_beta2", "AdamW's beta2", [](auto& r) -> auto& { return r.train.adam_beta2; }, below_one()),
      key(
          "train.adam_epsilon", "AdamW's epsilon", [](auto& r) -> auto& { return r.train.adam_epsilon; }, above(0)),
      key(
          "train.optimizer_state",
          "How AdamW's two moments are stored: 8, 4 or 2 bytes a trained parameter; the last two on the CPU only",
          [](auto& r) -> auto& { return r.train.optimizer_state; }),
      key(
          "train.max_grad_norm", "Gradients are scaled down to this norm",
          [](auto& r) -> auto& { return r.train.max_grad_norm; }, above(0)),
      key(
          "train.max_skipped_steps",
          "Steps that may be left out because their loss or gradient is not finite; one more ends the run",
          [](auto& r) -> auto& { return r.train.max_skipped_steps; }, at_least(0)),
      key(
          "train.recompute", "Compute layers again in the backward pass: auto as few as memory allows",
          [](auto& r) -> auto& { return r.train.recompute; }),
      key(
          "train.memory_limit", "GiB that may be resident, weights counted; null takes what is free",
          [](auto& r) -> auto& { return r.train.memory_limit; }, above(0)),
      key(
          "train.mxfp4_finish_steps", "Full mode: last steps trained with experts rounded to MXFP4",
          [](auto& r) -> auto& { return r.train.mxfp4_finish_steps; }, at_least(0)),
      key(
          "train.seed", "Decides the adapter's first values, the order of the data and dropout",
          [](auto& r) -> auto& { return r.train.seed; }, at_least(0)),
      key(
          "train.threads", "Processor threads; null takes all", [](auto& r) -> auto& { return r.train.threads; },
          between(1, 4096)),
      key(
          "train.pipeline_stages",
          "Ranks of mpirun among which the layers are divided, for a base model that is larger than a machine; more "
          "ranks share the micro-batches",
          [](auto& r) -> auto& { return r.train.pipeline_stages; }, between(1, 256)),

      key(
          "evaluation.every_steps", "Steps between evaluations; null evaluates at the end only",
          [](auto& r) -> auto& { return r.evaluation.every_steps; }, at_least(1)),
      key(
          "evaluation.early_stopping_patience", "Evaluations without a better loss after which to end",
          [](auto& r) -> auto& { return r.evaluation.early_stopping_patience; }, at_least(1)),
      key(
          "evaluation.keep_best",
          "Whether the result is what had the lowest validation loss and not the last; with early stopping it always "
          "is",
          [](auto& r) -> auto& { return r.evaluation.keep_best; }),
      key(
          "evaluation.sample_prompts",
          "User messages that the model answers before the first step and at each evaluation, always with the most "
          "probable token: RUN/samples.jsonl",
          [](auto& r) -> auto& { return r.evaluation.sample_prompts; }),
      key(
          "evaluation.sample_tokens", "Tokens of such a reply at most",
          [](auto& r) -> auto& { return r.evaluation.sample_tokens; }, between(1, 8192)),

      key(
          "checkpoint.every_steps", "Steps between checkpoints; null saves at the end only",
          [](auto& r) -> auto& { return r.checkpoint.every_steps; }, at_least(1)),
      key(
          "checkpoint.keep", "Newest checkpoints to keep", [](auto& r) -> auto& { return r.checkpoint.keep; },
          at_least(1)),
  };
}

/// Letters to insert, delete, replace, or swap with their neighbour (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const std::size_t replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

std::string_view section_of(std::string_view path) {
  const std::size_t dot = path.find('.');
  return dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
}

std::string_view name_of(std::string_view path) {
  return path.substr(path.find('.') + 1);
}

}  // namespace

std::string_view RecipeKey::section() const {
  return section_of(path);
}
std::string_view RecipeKey::name() const {
  return name_of(path);
}

const std::vector<RecipeKey>& recipe_keys() {
  static const std::vector<RecipeKey> keys = make_keys();
  return keys;
}

const RecipeKey* find_recipe_key(std::string_view path) {
  const auto& keys = recipe_keys();
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const RecipeKey& key) { return key.path == path; });
  return found == keys.end() ? nullptr : &*found;
}

std::string nearest_recipe_key(std::string_view path) {
  path = path.substr(0, 100);  // nothing longer is near
  const std::size_t letters = name_of(path).size();
  // Twice the letters to change, plus one for another section, so that a right name in a wrong section beats a
  // misspelling.
  std::size_t nearest = 2 * std::max<std::size_t>(letters / 3, letters >= 3 ? 1 : 0) + 2;
  std::string found;
  for (const RecipeKey& key : recipe_keys()) {
    const std::size_t moved =
        2 * edit_distance(name_of(path), key.name()) + (section_of(path) == key.section() ? 0 : 1);
    const std::size_t cost = std::min(moved, 2 * edit_distance(path, key.path));
    if (cost >= nearest) continue;
    nearest = cost;
    found = key.path;
  }
  for (const RecipeKey& key : recipe_keys()) {
    const std::size_t cost = 2 * edit_distance(path, key.section());
    if (key.section().empty() || cost >= nearest) continue;
    nearest = cost;
    found = key.section();
  }
  return found;
}

}  // namespace ossature
