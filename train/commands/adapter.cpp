#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>

#include "model/adapter/adapter.h"
#include "model/adapter/adapter_combination.h"
#include "model/adapter/adapter_difference.h"
#include "model/adapter/adapter_figures.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/files/staging_directory.h"
#include "train/commands/adapter_options.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/reports/adapter_report.h"
#include "train/text/progress.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> adapters;  // of combine: DIR or DIR=WEIGHT
  std::optional<fs::path> model, out, picture;
  std::optional<std::int64_t> rank;
  std::optional<double> energy;
  std::string combination = "svd";
  bool json = false;
};

/// The directory of the base model: what was given, else what the adapter names, if that is a directory.
fs::path base_of(const Options& options, const fs::path& adapter) {
  if (options.model) return *options.model;
  const std::string named = adapter_base_model(adapter);
  if (!named.empty() && fs::exists(fs::path(named) / "config.json")) return named;
  throw CheckpointError((adapter / "adapter_config.json").string() + ": base_model_name_or_path is " +
                        (named.empty() ? "not set" : "\"" + named + "\", which is no checkpoint directory here") +
                        "; expected the base model; give its directory with --model (config.json is enough)");
}

ModelConfig shape_of(const Options& options, const fs::path& adapter) {
  return read_config(base_of(options, adapter) / "config.json");
}

void print(const Options& options, const Inspection& report) {
  std::cout << (options.json ? to_json(report) + "\n" : to_text(report));
}

/// The directory of an adapter in the making, refused before any work if it is taken.
class Output {
 public:
  explicit Output(const Options& options) : path_(*options.out), staging_(path_) {}

  /// The adapter's base model is that of `source`.
  void write(const Lora& lora, const fs::path& source) {
    write_adapter(lora, staging_.path(), adapter_base_model(source));
    staging_.commit();
  }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  StagingDirectory staging_;
};

void info(const Options& options) {
  const fs::path dir = options.adapters.front();
  std::optional<OutputFile> picture;
  if (options.picture) picture.emplace(*options.picture, OutputFile::Replaces::kNothing);
  const Lora lora = read_adapter(dir, shape_of(options, dir));
  std::optional<Checkpoint> base;
  if (options.model) base.emplace(*options.model);
  std::vector<TargetFigures> figures;
  {
    Progress progress("adapter info");
    figures = measure(lora, base ? &*base : nullptr,
                      [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
  }
  print(options, figures_report(dir, figures, options.json));
  if (options.picture) replace_text_file(*options.picture, figures_picture(dir, figures));
}

void resize(const Options& options) {
  if (!options.rank && !options.energy) throw CLI::RequiredError("--rank or --energy");
  Output output(options);
  const fs::path dir = options.adapters.front();
  const ModelConfig model = shape_of(options, dir);
  const ResizedLora resized =
      ossature::resize(read_adapter(dir, model), model, options.rank.value_or(kMaxLoraRank), options.energy);
  output.write(resized.lora, dir);
  print(options, resize_report(output.path(), resized, options.json));
}

/// Adapters of one model, the model that the first names unless one was given.
struct Adapters {
  ModelConfig model;
  fs::path first;
  std::vector<Lora> loras;
  std::vector<WeightedLora> weighted;

  Adapters(const Options& options, const std::vector<WeightedAdapter>& parts)
      : model(shape_of(options, parts.front().dir)), first(parts.front().dir) {
    for (const WeightedAdapter& part : parts) loras.push_back(read_adapter(part.dir, model));
    for (std::size_t i = 0; i < parts.size(); ++i)
      weighted.push_back({&loras[i], parts[i].weight, parts[i].dir.string()});
  }
};

void combine_adapters(const Options& options) {
  const bool is_svd = options.combination == "svd";
  if (options.rank && !is_svd) throw CLI::ValidationError("--svd-rank", "goes with --combination-type svd only");
  const std::vector<WeightedAdapter> parts = weighted_adapters(options.adapters);
  Output output(options);
  const Adapters adapters(options, parts);
  if (is_svd) {
    const ResizedLora sum = combine_svd(adapters.weighted, adapters.model, options.rank);
    output.write(sum.lora, adapters.first);
    print(options, resize_report(output.path(), sum, options.json));
    return;
  }
  const Lora sum = combine(adapters.weighted, adapters.model,
                           options.combination == "cat" ? Combination::kCat : Combination::kLinear);
  output.write(sum, adapters.first);
  print(options, {"adapter", output.path(), {{"parameters", sum.parameters().numel()}}, {}});
}

void diff(const Options& options) {
  if (options.rank && !options.out) throw CLI::RequiredError("--out, for the adapter of rank --svd-rank");
  std::optional<Output> output;
  if (options.out) output.emplace(options);
  const Adapters adapters(options, {{options.adapters[0], 1.0}, {options.adapters[1], -1.0}});
  if (output) {
    output->write(options.rank ? combine_svd(adapters.weighted, adapters.model, options.rank).lora
                               : combine(adapters.weighted, adapters.model, Combination::kCat),
                  adapters.first);
  }
  print(options,
        difference_report(options.adapters[0], options.adapters[1], compare(adapters.loras[0], adapters.loras[1])));
}

std::shared_ptr<Options> add_common(CLI::App& command) {
  const auto options = std::make_shared<Options>();
  command.add_option("--model", options->model, "Base model, unless the adapter names its directory")->type_name("DIR");
  command.add_flag("--json", options->json, "Print one JSON object");
  add_threads_option(command);
  return options;
}

void add_out(CLI::App& command, Options& options, bool required) {
  command.add_option("--out", options.out, "New directory of the resulting adapter (PEFT files)")
      ->required(required)
      ->type_name("DIR");
}

const char* const kSvdRank = "Rank of the result; without it, of combine the largest rank, of diff the sum of both";

void add_info(CLI::App& app) {
  CLI::App* command = app.add_subcommand("info", "Norm, effective rank and stable rank by layer, weight and expert");
  const auto options = add_common(*command);
  command->add_option("DIR", options->adapters, "Adapter")->required()->expected(1);
  command->get_option("--model")->description(
      "Base model: then norms are also given in relation to its weights'; needed where the adapter names no directory "
      "of it");
  command->add_option("--picture", options->picture, "New file: heat maps of layers by weights and experts")
      ->type_name("FILE.svg");
  command->callback([options] { info(*options); });
}

void add_resize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("resize", "Lower the rank by singular value decomposition");
  const auto options = add_common(*command);
  command->add_option("DIR", options->adapters, "Adapter")->required()->expected(1);
  add_out(*command, *options, true);
  command->add_option("--rank", options->rank, "Rank of the result, at most")
      ->check(whole_number_within(1, kMaxLoraRank));
  command
      ->add_option("--energy", options->energy,
                   "Take of each weight the least rank at which it, and each expert, keeps this share of its energy")
      ->check(number_within(0.0, 1.0));
  command->callback([options] { resize(*options); });
}

void add_diff(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("diff", "How the deltas of two adapters differ; their difference as an adapter");
  const auto options = add_common(*command);
  command->add_option("ADAPTERS", options->adapters, "Two adapters: the first minus the second")
      ->required()
      ->expected(2);
  add_out(*command, *options, false);
  command->add_option("--svd-rank", options->rank, kSvdRank)->check(whole_number_within(1, kMaxLoraRank));
  command->callback([options] { diff(*options); });
}

void add_combine(CLI::App& app) {
  CLI::App* command = app.add_subcommand("combine", "Weighted sum of adapters as one adapter");
  const auto options = add_common(*command);
  command->add_option("ADAPTERS", options->adapters, "Adapters, each with its weight, or weight 1")
      ->required()
      ->expected(1, -1)
      ->type_name("DIR[=WEIGHT]");
  add_out(*command, *options, true);
  command
      ->add_option("--combination-type", options->combination,
                   "PEFT's: cat (exact; ranks add up), svd (the best of a rank), linear (A and B summed apart: no "
                   "sum of deltas)")
      ->check(CLI::IsMember({"cat", "svd", "linear"}))
      ->capture_default_str();
  command->add_option("--svd-rank", options->rank, kSvdRank)->check(whole_number_within(1, kMaxLoraRank));
  command->callback([options] { combine_adapters(*options); });
}

}  // namespace

void register_adapter(CLI::App& app) {
  CLI::App* command = app.add_subcommand("adapter", "Look into adapters, cut their rank, compare and combine them");
  command->require_subcommand(1);
  add_info(*command);
  add_resize(*command);
  add_diff(*command);
  add_combine(*command);
}

}  // namespace ossature
