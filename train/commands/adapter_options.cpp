#include "train/commands/adapter_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/adapter/adapter.h"

namespace ossature {
namespace {

WeightedAdapter weighted_adapter(const std::string& text) {
  const auto equals = text.rfind('=');
  if (equals == std::string::npos || std::filesystem::exists(text)) return {text};
  const std::string number = text.substr(equals + 1);
  double weight = 0.0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), weight);
  if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(weight)) {
    throw CLI::ValidationError(text, "the weight " + number + " is not a finite number; expected " +
                                         "DIR or DIR=WEIGHT, such as runs/mine/adapter=0.5");
  }
  return {text.substr(0, equals), weight};
}

}  // namespace

void add_adapter_option(CLI::App& command, std::vector<std::string>& arguments) {
  command
      .add_option("--adapter", arguments,
                  "Adapter directory (PEFT files), times a weight if one is given; may be repeated")
      ->type_name("DIR[=WEIGHT]");
}

std::vector<WeightedAdapter> weighted_adapters(const std::vector<std::string>& arguments) {
  std::vector<WeightedAdapter> adapters;
  for (const std::string& text : arguments) adapters.push_back(weighted_adapter(text));
  return adapters;
}

std::vector<Recipe> run_recipes(const std::vector<WeightedAdapter>& adapters) {
  std::vector<Recipe> recipes;
  for (const WeightedAdapter& adapter : adapters) {
    const std::filesystem::path file =
        std::filesystem::absolute(adapter.dir / "").parent_path().parent_path() / "recipe.yaml";
    if (std::filesystem::exists(file)) recipes.push_back(read_recipe(file));
  }
  return recipes;
}

Merger merger_of(const std::vector<WeightedAdapter>& adapters, const ModelConfig& model) {
  Merger merger;
  for (auto adapter = adapters.begin(); adapter != adapters.end(); ++adapter) {
    const bool is_second = std::any_of(adapters.begin(), adapter, [&](const WeightedAdapter& other) {
      std::error_code not_there;
      return std::filesystem::equivalent(other.dir, adapter->dir, not_there);
    });
    if (!is_second) continue;
    throw CLI::ValidationError("--adapter", adapter->dir.string() + " is given twice; to add it so often give its " +
                                                "weight: " + adapter->dir.string() + "=2");
  }
  for (const auto& [dir, weight] : adapters) merger.add(read_adapter(dir, model), weight);
  return merger;
}

}  // namespace ossature
