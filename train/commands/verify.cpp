#include "train/commands/verify.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "train/commands/adapter_options.h"
#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/text/progress.h"

namespace ossature {
namespace {

struct Options {
  std::filesystem::path exported, model, data;
  std::vector<std::string> adapters;
  VerificationOptions how;
  std::string dtype = "bfloat16";
  bool json = false;
};

void run(Options options) {
  const std::vector<WeightedAdapter> adapters = weighted_adapters(options.adapters);
  const Checkpoint base(options.model), exported(options.exported);
  base.check_scales();
  exported.check_scales();
  const Merger merger = merger_of(adapters, base.config());
  options.how.dtype = options.dtype == "float32" ? at::kFloat : at::kBFloat16;
  const Verification found = run_verification(base, merger, exported, options.data, options.how);
  Inspection report = found.report();
  report.path = options.exported;
  std::cout << (options.json ? to_json(report) + "\n" : to_text(report));
  if (!found.passed()) {
    throw CheckpointError(options.exported.string() + ": " + found.advice(exported.experts()));
  }
}

}  // namespace

Verification run_verification(const Checkpoint& base, const Merger& merger, const Checkpoint& exported,
                              const std::filesystem::path& data, const VerificationOptions& options) {
  Progress progress("verify");
  return verify_export(base, merger, exported, std::make_shared<const TokenFileReader>(data), options,
                       [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
}

void register_verify(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("verify", "What an export kept of base + adapter, on data that neither has seen");
  command->add_option("--exported", options->exported, "Directory that export wrote")->required()->type_name("DIR");
  command->add_option("--model", options->model, "Base checkpoint directory")->required()->type_name("DIR");
  add_adapter_option(*command, options->adapters);
  command->add_option("--data", options->data, "Token file that was not trained on")->required()->type_name("FILE.h5");
  command
      ->add_option("--min-retention", options->how.min_retention,
                   "Fails (exit code 3) if the export kept less of what the adapter gained")
      ->check(number_within(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--by-layer", options->how.by_layer, "Also what each layer of the export kept");
  command->add_option("--dtype", options->dtype, "Compute dtype")
      ->check(CLI::IsMember({"bfloat16", "float32"}))
      ->capture_default_str();
  command->add_option("--max-tokens", options->how.max_tokens, "Tokens computed at once")
      ->check(whole_number_from(1))
      ->capture_default_str();
  add_threads_option(*command);
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
