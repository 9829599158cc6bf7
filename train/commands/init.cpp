#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "model/checkpoint/checkpoint.h"
#include "model/export/init.h"
#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/failure/errors.h"
#include "train/loop/interrupt.h"
#include "train/text/progress.h"

namespace ossature {
namespace {

struct Options {
  std::string shape;
  std::filesystem::path out;
  std::uint64_t seed = 0;
  std::optional<std::filesystem::path> tokenizer;
  std::optional<std::int64_t> layers;
  std::string experts = "mxfp4";
};

ModelConfig config_of(const Options& options) {
  std::optional<ModelConfig> config = preset(options.shape);
  if (!config) {
    if (!std::filesystem::exists(options.shape)) {
      throw CLI::ValidationError(
          "PRESET|config.json",
          "\"" + options.shape + "\" is neither gpt-oss-20b, gpt-oss-120b or tiny nor a file that exists");
    }
    if (std::filesystem::is_directory(options.shape)) {
      throw CLI::ValidationError("PRESET|config.json",
                                 "\"" + options.shape + "\" is a directory; name the config.json in it");
    }
    config = read_config(options.shape);
  }
  if (options.layers) {
    if (*options.layers > config->num_hidden_layers) {
      throw CLI::ValidationError("--layers", std::to_string(*options.layers) + " is more than the " +
                                                 std::to_string(config->num_hidden_layers) + " that the shape has");
    }
    config->num_hidden_layers = *options.layers;
    config->sliding_layers.resize(static_cast<std::size_t>(*options.layers));
  }
  return *config;
}

}  // namespace

void register_init(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("init", "Write a checkpoint of a given shape with random weights");
  command->add_option("PRESET|config.json", options->shape, "gpt-oss-20b, gpt-oss-120b, tiny, or a config.json")
      ->required();
  command->add_option("--out", options->out, "New directory")->required()->type_name("DIR");
  command->add_option("--seed", options->seed, "Seed of the weights")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--tokenizer", options->tokenizer, "Directory whose tokenizer files are copied along")
      ->check(CLI::ExistingDirectory)
      ->type_name("DIR");
  command->add_option("--layers", options->layers, "Keep only the first N layers")
      ->check(whole_number_from(1))
      ->type_name("N");
  command->add_option("--experts", options->experts, "How expert weights are stored; bf16 can be trained in full")
      ->check(CLI::IsMember({"mxfp4", "bf16"}))
      ->capture_default_str();
  command->callback([options] {
    {
      const InterruptGuard interrupt;
      Progress progress("init");
      init_checkpoint(config_of(*options), options->seed,
                      options->experts == "bf16" ? ExpertStorage::kBf16 : ExpertStorage::kMxfp4, options->tokenizer,
                      options->out, kMaxShardBytes, [&](std::int64_t done, std::int64_t total) {
                        if (interrupt.is_requested()) throw InterruptedError("init: interrupted; nothing was written");
                        progress.show(done, total);
                      });
    }
    const Checkpoint written(options->out);
    std::cout << options->out.string() << ": " << written.num_parameters() << " random parameters in "
              << written.config().num_hidden_layers << " layers, " << written.stored_bytes() << " bytes\n";
  });
}

}  // namespace ossature
