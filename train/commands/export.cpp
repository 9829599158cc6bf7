#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>

#include "model/adapter/adapter.h"
#include "model/adapter/adapter_gguf.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/export/export.h"
#include "model/export/export_gguf.h"
#include "model/files/staging_directory.h"
#include "train/commands/adapter_options.h"
#include "train/commands/calibrated_export.h"
#include "train/commands/command.h"
#include "train/commands/numbers.h"
#include "train/commands/verify.h"
#include "train/evaluation/calibration_data.h"
#include "train/evaluation/verification.h"
#include "train/failure/errors.h"
#include "train/loop/interrupt.h"
#include "train/recipe/recipe.h"
#include "train/reports/model_card.h"
#include "train/run/training_files.h"
#include "train/text/progress.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

struct Options {
  std::filesystem::path model, out;
  std::vector<std::string> adapters;
  std::string format = "hf";
  std::string experts = "mxfp4";
  std::optional<std::string> rounding;
  std::vector<std::filesystem::path> calibration;
  std::int64_t calibration_tokens = kCalibrationTokens;
  std::optional<std::int64_t> recover;
  std::optional<std::filesystem::path> verify;
  bool no_verify = false;
  VerificationOptions verification;
};

/// The validation data of the run that made the adapter, if it lies in a run folder and the file is still there.
std::optional<std::filesystem::path> validation_data(const std::vector<WeightedAdapter>& adapters) {
  for (const Recipe& recipe : run_recipes(adapters))
    if (recipe.data.validation && std::filesystem::exists(*recipe.data.validation)) return recipe.data.validation;
  return std::nullopt;
}

/// Opens what was written as any reader does, and says what it kept on `file`, also in the model card. Throws
/// CheckpointError if that is less than asked.
void verify(const Options& options, const std::optional<std::filesystem::path>& file, const Checkpoint& base,
            const Merger& merger, const Checkpoint& written, ModelCard card) {
  if (!file) {
    const TensorComparison found = compare_tensors(base, merger, written);
    std::cout << "tensors: " << found.identical + found.dense_experts << " as in the base, " << found.merged
              << " merged, " << found.lost_to_rounding << " lost to rounding, " << found.corrected_biases
              << " expert biases corrected for it, " << found.others.size()
              << " changed otherwise; what was kept of the adapter is not known: give --verify FILE.h5\n";
    return;
  }
  const Verification found = run_verification(base, merger, written, *file, options.verification);
  Inspection report = found.report();
  report.path = file->string();
  std::cout << to_text(report);
  card.verification =
      CardVerification{file->filename().string(), found.learned_tokens, found.loss_base,         found.loss_adapter,
                       found.loss_export,         found.retention,      found.kl_adapter_export, found.top1_agreement};
  if (std::filesystem::is_directory(options.out)) replace_text_file(options.out / "README.md", to_markdown(card));
  if (!found.passed()) throw CheckpointError(options.out.string() + ": " + found.advice(written.experts()));
}

const char* storage_name(ExpertStorage experts) {
  return experts == ExpertStorage::kMxfp4  ? "MXFP4"
         : experts == ExpertStorage::kBf16 ? "bfloat16"
                                           : "MXFP4 and bfloat16";
}

/// What is known before anything is written.
ModelCard card_of(const Options& options, const std::vector<WeightedAdapter>& adapters, const Checkpoint& base,
                  const Merger& merger, bool is_calibrated) {
  ModelCard card;
  card.version = OSSATURE_VERSION;
  std::vector<std::filesystem::path> files;
  if (base.layout() != Layout::kGguf) files.push_back(base.dir() / "config.json");
  for (const StoredTensor& tensor : base.stored_tensors())
    if (files.empty() || files.back() != tensor.file) files.push_back(tensor.file);
  card.base = card_source(base.dir(), files);
  card.license = front_matter(base.dir(), "license");
  for (const WeightedAdapter& adapter : adapters) {
    card.adapters.push_back(
        card_source(adapter.dir, {adapter.dir / "adapter_config.json", adapter.dir / "adapter_model.safetensors"}));
    card.adapters.back().weight = adapter.weight;
    if (!card.base_model) card.base_model = hub_name(adapter_base_model(adapter.dir));
  }
  card.format = options.format;
  card.experts = options.experts;
  if (options.experts == "mixed") card.bf16_expert_layers = dense_layers(base, merger, ExpertStorage::kMixed);
  if (is_calibrated) {
    card.rounding = "calibrated";
  } else if (options.experts == "mxfp4" && (merger.changes_experts() || base.experts() != ExpertStorage::kMxfp4)) {
    card.rounding = "nearest";
  }
  return card;
}

/// Until a signal asks to stop.
void export_with_progress(const Checkpoint& base, const Merger& merger, const ExportOptions& how, bool is_gguf,
                          const std::filesystem::path& out) {
  const InterruptGuard interrupt;
  Progress progress("export");
  (is_gguf ? export_gguf : export_checkpoint)(base, merger, how, out, [&](std::int64_t done, std::int64_t total) {
    if (interrupt.is_requested()) throw InterruptedError("export: interrupted; nothing was written");
    progress.show(done, total);
  });
}

/// The data that calibrate the rounding; none where experts are rounded without. Throws CLI::ValidationError where what
/// was asked for cannot be.
std::vector<std::filesystem::path> calibration_data(const Options& options,
                                                    const std::vector<WeightedAdapter>& adapters,
                                                    const Checkpoint& base, const Merger& merger) {
  const bool is_asked_for = options.rounding == "calibrated" || options.recover || !options.calibration.empty();
  const char* asked_by = options.recover                    ? "--recover"
                         : options.rounding == "calibrated" ? "--rounding"
                                                            : "--calibration";
  if (options.rounding == "nearest" && is_asked_for) {
    throw CLI::ValidationError(asked_by, "--rounding nearest takes no data; leave one of the two out");
  }
  const bool is_mxfp4 = options.experts == "mxfp4";
  if (options.rounding == "nearest" && !is_mxfp4) {
    throw CLI::ValidationError("--rounding", "nearest would lose small changes in bfloat16 too, and --experts " +
                                                 options.experts + " never rounds so; leave it out");
  }
  if (options.recover && !is_mxfp4) {
    throw CLI::ValidationError(
        "--recover", "--experts " + options.experts + " leaves nothing to recover; it goes with --experts mxfp4");
  }
  if (is_asked_for && is_mxfp4 && base.experts() == ExpertStorage::kBf16) {
    throw CLI::ValidationError(asked_by, "calibrated rounding moves codes of a base in MXFP4, and the experts of " +
                                             base.dir().string() + " are bfloat16; give --rounding nearest");
  }
  if (options.recover && !merger.changes_experts()) {
    throw CLI::ValidationError("--recover",
                               "the adapter changes no expert, so nothing is lost to rounding; leave it out");
  }
  if (!merger.changes_experts() || options.rounding == "nearest") return {};
  // In bfloat16 an adapter is kept without data too, in a fraction of the time.
  if (is_mxfp4 ? base.experts() == ExpertStorage::kBf16 : !is_asked_for) return {};
  if (!options.calibration.empty()) return options.calibration;
  std::vector<std::filesystem::path> found = training_data(adapters);
  if (found.empty() && is_asked_for) {
    throw CLI::ValidationError(asked_by,
                               "calibrated rounding needs samples of what the adapter was trained for, and its run's "
                               "training data are not there; give --calibration FILE.h5");
  }
  if (found.empty()) {
    std::string missing;
    for (const Recipe& recipe : run_recipes(adapters))
      missing += (missing.empty() ? " (not there: " : ", ") + names_of(recipe.data.train);
    std::cerr << "export: without calibration data" << visible_line(missing) << (missing.empty() ? "" : ")")
              << " experts are rounded to nearest, which loses small changes; give --calibration FILE.h5 (samples of "
                 "what the adapter was trained for) to keep them\n";
  }
  return found;
}

const char* layout_name(Layout layout) {
  return layout == Layout::kHf ? "transformers' layout" : layout == Layout::kOpenAi ? "OpenAI's layout" : "GGUF";
}

/// Throws CLI::ValidationError where options do not go together: none is passed over.
void check_options(const Options& options) {
  const bool is_adapter_alone = options.format == "gguf-adapter";
  if (options.format == "openai" && options.experts != "mxfp4") {
    throw CLI::ValidationError(
        "--experts", options.experts + " does not go with --format openai, which has experts in " + "MXFP4 only");
  }
  if (is_adapter_alone && options.adapters.empty()) {
    throw CLI::ValidationError("--adapter", "is missing; --format gguf-adapter writes nothing else");
  }
  if (is_adapter_alone && options.experts != "mxfp4") {
    throw CLI::ValidationError("--experts", "does not go with --format gguf-adapter, which writes no weight");
  }
  for (const auto& [name, is_given] :
       {std::pair{"--rounding", options.rounding == "calibrated" || (is_adapter_alone && options.rounding)},
        std::pair{"--calibration", !options.calibration.empty()}, std::pair{"--recover", options.recover.has_value()},
        std::pair{"--verify", options.verify.has_value()}}) {
    if (!is_given) continue;
    if (is_adapter_alone)
      throw CLI::ValidationError(name, "does not go with --format gguf-adapter, which merges and rounds nothing");
    if (options.adapters.empty())
      throw CLI::ValidationError(name, "goes with --adapter; without one the weights stay as they are");
  }
  if (options.format != "gguf" && !is_adapter_alone && options.out.extension() == ".gguf") {
    throw CLI::ValidationError("--out", options.out.string() + " is the name of a GGUF file, and --format " +
                                            options.format + " writes a directory; give --format gguf or another name");
  }
}

void run(const Options& options) {
  check_options(options);
  const std::vector<WeightedAdapter> adapters = weighted_adapters(options.adapters);
  const Checkpoint base(options.model);
  base.check_scales();
  const Merger merger = merger_of(adapters, base.config());
  if (options.format == "gguf-adapter") {
    write_gguf_adapter(merger, options.out);
    std::cout << options.out.string() << ": " << merger.pairs().size()
              << " low-rank pairs for llama.cpp (--lora), which adds them to a GGUF file of the base\n";
    return;
  }
  ExportOptions how;
  how.format = options.format == "openai" ? ExportFormat::kOpenAi : ExportFormat::kHf;
  how.experts = options.experts == "bf16"    ? ExpertStorage::kBf16
                : options.experts == "mixed" ? ExpertStorage::kMixed
                                             : ExpertStorage::kMxfp4;
  const std::vector<std::filesystem::path> data = calibration_data(options, adapters, base, merger);
  // What the end needs is looked at before the work, which may take hours.
  const std::optional<std::filesystem::path> held_out = options.verify ? options.verify : validation_data(adapters);
  if (held_out && !options.no_verify) check_held_out(std::make_shared<const TokenFileReader>(*held_out), base);
  if (options.recover) check_recovery_data(data, options.calibration_tokens);
  ModelCard card = card_of(options, adapters, base, merger, !data.empty());
  std::optional<RoundedLayers> rounded;
  std::optional<Recovery> recovered;
  const std::filesystem::path work = rounding_folder(options.out);
  if (!data.empty()) {
    { const StagingDirectory is_free(options.out); }  // better now than after an hour
    const auto grid = how.experts == ExpertStorage::kMxfp4 ? RoundedTo::kMxfp4 : RoundedTo::kBFloat16;
    rounded.emplace(round_experts(base, merger, adapters, grid, data, options.calibration_tokens, work));
    if (options.recover) {
      RecoveryOptions recovery;
      recovery.steps = *options.recover;
      recovered = recover_export(base, merger, *rounded, data, options.calibration_tokens, recovery, work);
      for (const auto& [name, tensor] : recovered->tensors) rounded->replacements.tensors[name] = tensor;
      card.recovered_steps = recovered->steps;
    }
    how.replacements = &rounded->replacements;
  }
  how.model_card = to_markdown(card);
  export_with_progress(base, merger, how, options.format == "gguf", options.out);
  remove_rounding_folder(options.out);
  const Checkpoint written(options.out);
  std::cout << options.out.string() << ": " << written.num_parameters() << " parameters, " << written.stored_bytes()
            << " bytes, " << layout_name(written.layout()) << ", experts " << storage_name(written.experts());
  if (adapters.size() == 1) std::cout << ", adapter merged";
  if (adapters.size() > 1) std::cout << ", " << adapters.size() << " adapters merged";
  std::cout << "\n";
  if (rounded) std::cout << "experts rounded for calibration data: " << gain_text(*rounded) << "\n";
  if (recovered) std::cout << recovery_text(*recovered) << "\n";
  if (!merger.pairs().empty() && !options.no_verify) verify(options, held_out, base, merger, written, card);
}

}  // namespace

void register_export(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("export", "Write base + adapter as a checkpoint that inference engines load");
  command->add_option("--model", options->model, "Base checkpoint directory, or a GGUF file")
      ->required()
      ->type_name("DIR");
  add_adapter_option(*command, options->adapters);
  command
      ->add_option("--out", options->out,
                   "New directory; of --format gguf a new FILE.gguf or a directory for one, of gguf-adapter a new file")
      ->required()
      ->type_name("DIR");
  add_threads_option(*command);
  command
      ->add_option("--format", options->format,
                   "Layout: transformers', OpenAI's original, a GGUF file for "
                   "llama.cpp, or the adapter alone as one")
      ->check(CLI::IsMember({"hf", "openai", "gguf", "gguf-adapter"}))
      ->capture_default_str();
  command
      ->add_option("--experts", options->experts,
                   "How expert weights are stored; mixed: bfloat16 in the layers whose experts "
                   "an adapter changes (openai: mxfp4 only)")
      ->check(CLI::IsMember({"mxfp4", "bf16", "mixed"}))
      ->capture_default_str();
  command
      ->add_option(
          "--rounding", options->rounding,
          "How merged experts become MXFP4: to the codes that keep what the adapter does on calibration data, or "
          "to the nearest, which loses small changes (default: calibrated, if there are data). In bfloat16 they are "
          "balanced along the adapter without data; calibrated keeps some more and takes as long as for MXFP4")
      ->check(CLI::IsMember({"nearest", "calibrated"}));
  command
      ->add_option("--calibration", options->calibration,
                   "Token files of what the adapter was trained for (default: the training data of its run)")
      ->type_name("FILE.h5");
  command->add_option("--calibration-tokens", options->calibration_tokens, "How many tokens of them are used")
      ->check(whole_number_from(1))
      ->capture_default_str();
  command
      ->add_option(
          "--recover", options->recover,
          "After calibrated rounding, train the experts' biases for so many steps to predict as base + adapter "
          "does; kept if that is so on samples of the calibration data that were held out")
      ->check(whole_number_from(1))
      ->type_name("STEPS");
  CLI::Option* data = command
                          ->add_option("--verify", options->verify,
                                       "Token file that was not trained on, to tell what the export kept (default: the "
                                       "validation data of the adapter's run)")
                          ->type_name("FILE.h5");
  command->add_flag("--no-verify", options->no_verify, "Write only")->excludes(data);
  command
      ->add_option("--min-retention", options->verification.min_retention,
                   "Exit code 3 if the export kept less of what the adapter gained")
      ->check(number_within(0.0, 1.0))
      ->capture_default_str();
  command->callback([options] { run(*options); });
}

}  // namespace ossature
