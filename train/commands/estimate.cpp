#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/plan/estimate.h"

namespace ossature {
namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> overrides;
  bool no_probe = false;
  bool json = false;
  std::int64_t ranks = 1;
  std::string network = "10Gbit";
  double latency_ms = 0.1;
  std::optional<double> micro_batch_seconds;
};

void run(const Options& options) {
  const Recipe recipe = read_recipe(options.recipe, options.overrides);
  Estimate found = estimate(recipe, !options.no_probe);
  if (options.ranks > 1)
    add_ranks(found, recipe, options.ranks, {parse_bit_rate(options.network) / 8.0, options.latency_ms / 1e3},
              options.micro_batch_seconds);
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
  command->add_option("--ranks", options->ranks, "Machines like this one, for the time of a run on all of them")
      ->check(whole_number_within(1, 1 << 20))
      ->type_name("N");
  command->add_option("--network", options->network, "What joins them")
      ->check([](const std::string& text) {
        return parse_bit_rate(text) > 0.0 ? "" : "\"" + text + "\"; expected a rate such as 1Gbit or 100Mbit";
      })
      ->type_name("RATE")
      ->capture_default_str();
  command->add_option("--latency", options->latency_ms, "Of the network, one way, in milliseconds")
      ->check(number_from(0.0))
      ->type_name("MS")
      ->capture_default_str();
  command
      ->add_option("--micro-batch-seconds", options->micro_batch_seconds,
                   "What one of the machines was seen to take for a micro-batch, in place of the probe's")
      ->check(number_above_zero())
      ->type_name("S");
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
