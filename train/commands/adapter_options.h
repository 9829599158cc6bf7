// --adapter DIR[=WEIGHT], which may be repeated: what export merges and verify compares with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/adapter/merge.h"
#include "train/recipe/recipe.h"

namespace CLI {
class App;
}

namespace ossature {

struct WeightedAdapter {
  std::filesystem::path dir;
  double weight = 1.0;
};

/// Adds --adapter to `command`; `arguments` must live as long as it.
void add_adapter_option(CLI::App& command, std::vector<std::string>& arguments);

/// What the arguments name. What exists as a directory is one, whatever its name holds. Throws CLI::ValidationError if
/// a weight is no finite number.
[[nodiscard]] std::vector<WeightedAdapter> weighted_adapters(const std::vector<std::string>& arguments);

/// The recipes of the runs whose results the adapters are: of those that lie in a run folder.
[[nodiscard]] std::vector<Recipe> run_recipes(const std::vector<WeightedAdapter>& adapters);

/// Reads and adds them up. Throws CheckpointError as read_adapter does.
[[nodiscard]] Merger merger_of(const std::vector<WeightedAdapter>& adapters, const ModelConfig& model);

}  // namespace ossature
