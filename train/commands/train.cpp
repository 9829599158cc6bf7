#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "train/commands/command.h"
#include "train/recipe.h"
#include "train/trainer.h"

namespace ossature {

void register_train(CLI::App& app) {
  struct Options {
    std::string recipe;
    std::vector<std::string> overrides;
    bool resume = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train by a recipe");
  command->add_option("RECIPE", options->recipe, "Recipe file (YAML); see ossature recipes")->required();
  command->add_option("KEY=VALUE", options->overrides, "Changes to the recipe, such as train.learning_rate=1e-4");
  command->add_flag("--resume", options->resume, "Go on from the newest checkpoint of the run folder");
  command
      ->add_option_function<int>(
          "--threads", [options](int n) { options->overrides.push_back("train.threads=" + std::to_string(n)); },
          "Processor threads, as train.threads=N")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->callback([options] { train(read_recipe(options->recipe, options->overrides), options->resume); });
}

}  // namespace ossature
