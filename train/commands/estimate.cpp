#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "train/commands/command.h"
#include "train/estimate.h"

namespace ossature {
namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> overrides;
  bool no_probe = false;
  bool json = false;
};

void run(const Options& options) {
  const Recipe recipe = read_recipe(options.recipe, options.overrides);
  const Estimate found = estimate(recipe, !options.no_probe);
  Inspection report = found.report();
  report.path = options.recipe;
  std::cout << (options.json ? to_json(report) + "\n" : to_text(report));
}

}  // namespace

void register_estimate(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("estimate", "What a recipe will need: memory, disk and time, before a run");
  command->add_option("RECIPE", options->recipe, "Recipe file (YAML)")->required();
  command->add_option("KEY=VALUE", options->overrides, "Changes to the recipe, such as data.sequence_length=8192");
  command->add_flag("--no-probe", options->no_probe, "Do not measure this machine's matrix product: no times");
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
