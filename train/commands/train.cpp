#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/loop/trainer.h"
#include "train/plan/estimate.h"
#include "train/ranks/ranks.h"
#include "train/recipe/recipe.h"
#include "train/run/run_folder.h"
#include "train/run/training_files.h"

namespace ossature {

void register_train(CLI::App& app) {
  struct Options {
    std::string recipe;
    std::vector<std::string> overrides;
    bool resume = false, dry_run = false;
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
      ->check(whole_number_within(1, 4096))
      ->type_name("N");
  command->add_flag("--dry-run", options->dry_run,
                    "Print the whole recipe and what the run would need; write nothing and train nothing");
  command->callback([options] {
    const std::unique_ptr<Ranks> ranks = join_ranks();
    Recipe recipe;
    together(*ranks, [&] { recipe = read_recipe(options->recipe, options->overrides); });
    if (!options->dry_run) return train(recipe, options->resume, *ranks);
    if (!ranks->is_first()) return;
    check_run_folder(recipe, options->resume);
    const Checkpoint base(recipe.base_model);
    const RunFiles files = open_run_files(recipe, base);
    warn_of_other_tokenizer(*files.training.front().file, base.dir());
    Inspection needs = estimate(recipe, /*probe=*/true).report();
    needs.path = options->recipe;
    std::cout << to_yaml(recipe) << "\n" << to_text(needs);
  });
}

}  // namespace ossature
