#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "model/adapter.h"
#include "model/export.h"
#include "train/commands/command.h"
#include "train/commands/progress.h"

namespace ossature {
namespace {

struct Options {
  std::filesystem::path model, out;
  std::optional<std::filesystem::path> adapter;
  std::string format = "hf";
  std::string experts = "mxfp4";
};

void run(const Options& options) {
  if (options.format == "openai" && options.experts != "mxfp4") {
    throw CLI::ValidationError(
        "--experts", options.experts + " does not go with --format openai, which has experts in " + "MXFP4 only");
  }
  const Checkpoint base(options.model);
  base.check_scales();
  std::optional<Lora> adapter;
  if (options.adapter) adapter.emplace(read_adapter(*options.adapter, base.config()));
  ExportOptions how;
  how.format = options.format == "openai" ? ExportFormat::kOpenAi : ExportFormat::kHf;
  how.experts = options.experts == "bf16" ? ExpertStorage::kBf16 : ExpertStorage::kMxfp4;
  {
    Progress progress("export");
    export_checkpoint(base, adapter ? &*adapter : nullptr, how, options.out,
                      [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
  }
  const Checkpoint written(options.out);
  std::cout << options.out.string() << ": " << written.num_parameters() << " parameters, " << written.stored_bytes()
            << " bytes, " << (written.layout() == Layout::kOpenAi ? "OpenAI's layout" : "transformers' layout")
            << ", experts " << (written.is_mxfp4() ? "MXFP4" : "bfloat16")
            << (options.adapter ? ", adapter merged" : "") << "\n";
}

}  // namespace

void register_export(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("export", "Write base + adapter as a checkpoint that inference engines load");
  command->add_option("--model", options->model, "Base checkpoint directory")->required()->type_name("DIR");
  command->add_option("--adapter", options->adapter, "Adapter directory (PEFT files)")->type_name("DIR");
  command->add_option("--out", options->out, "New directory")->required()->type_name("DIR");
  add_threads_option(*command);
  command->add_option("--format", options->format, "Layout: transformers' or OpenAI's original")
      ->check(CLI::IsMember({"hf", "openai"}))
      ->capture_default_str();
  command->add_option("--experts", options->experts, "How expert weights are stored (openai: mxfp4 only)")
      ->check(CLI::IsMember({"mxfp4", "bf16"}))
      ->capture_default_str();
  command->callback([options] { run(*options); });
}

}  // namespace ossature
