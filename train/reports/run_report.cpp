#include "train/reports/run_report.h"

#include <algorithm>

#include "data/data_error.h"
#include "data/token_file/token_file.h"
#include "model/adapter/adapter.h"
#include "model/checkpoint/checkpoint.h"
#include "train/reports/token_report.h"
#include "train/run/run_state.h"
#include "train/run/trained_model.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Value = Inspection::Value;

/// Does `work`; an input that is gone or broken becomes a line of what is missing.
template <class Work>
void unless_missing(RunReport& report, const std::string& what, const Work& work) {
  try {
    work();
  } catch (const DataError& error) {
    report.missing.push_back(what + ": " + error.what());
  } catch (const CheckpointError& error) {
    report.missing.push_back(what + ": " + error.what());
  } catch (const RecipeError& error) {
    report.missing.push_back(what + ": " + error.what());
  } catch (const std::system_error& error) {
    report.missing.push_back(what + ": " + error.what());
  }
}

/// The tokenizer of `file`, if the base model's is that; else none.
fs::path tokenizer_of(const TokenFileReader& file, const fs::path& base) {
  if (file.tokenizer_sha256().empty() || !fs::exists(base / "tokenizer.json")) return {};
  return Tokenizer::load(base).sha256() == file.tokenizer_sha256() ? base : fs::path();
}

Value field(const Inspection& inspection, const std::string& name) {
  const auto found = std::find_if(inspection.fields.begin(), inspection.fields.end(),
                                  [&](const auto& candidate) { return candidate.first == name; });
  return found != inspection.fields.end() ? found->second : Value(std::int64_t{0});
}

void add_token_file(RunReport& report, const std::string& use, const fs::path& path, double weight,
                    const std::function<void(std::int64_t, std::int64_t)>& progress) {
  unless_missing(report, "data", [&] {
    const TokenFileReader file(path);
    Inspection contents = describe_structure(file);
    add_contents(file, tokenizer_of(file, report.recipe.base_model), contents, [&](std::int64_t done) {
      if (progress) progress(done, file.num_tokens());
    });
    report.data.rows.push_back({path.string(), use, weight, file.num_samples(), file.num_tokens(),
                                field(contents, "learned_tokens"), field(contents, "longest_sample"),
                                field(contents, "mean_length")});
    for (const Inspection::Table& table : contents.tables) {
      if (table.name != "channels") continue;
      for (const auto& row : table.rows) {
        report.channels.rows.push_back({path.filename().string()});
        report.channels.rows.back().insert(report.channels.rows.back().end(), row.begin(), row.end());
      }
      if (!table.rows.empty()) {
        report.channels.columns = {"file"};
        report.channels.columns.insert(report.channels.columns.end(), table.columns.begin(), table.columns.end());
      }
    }
  });
}

/// The adapter of a run that has not written it yet: that of its newest whole checkpoint.
void add_checkpoint(RunReport& report, const fs::path& run_dir, const std::optional<ModelConfig>& config) {
  unless_missing(report, "adapter", [&] {
    if (config && has_run_state(run_dir)) {
      const Lora lora = adapter_of(report.recipe, *config);
      report.adapter_step = read_saved_values(run_dir, lora.parameters());
      if (report.adapter_step) report.adapter = measure(lora);
    }
    if (!report.adapter_step)
      report.missing.emplace_back("adapter: not written yet; a run writes it at its end, and checkpoints before");
  });
}

/// Of the base only headers are digested: those of 120 billion parameters take minutes in whole.
void add_models(RunReport& report, const fs::path& run_dir) {
  std::optional<ModelConfig> config;
  unless_missing(report, "base model", [&] {
    const Checkpoint base(report.recipe.base_model);
    config = base.config();
    std::vector<fs::path> files;
    if (base.layout() != Layout::kGguf) files.push_back(base.dir() / "config.json");
    for (const StoredTensor& tensor : base.stored_tensors())
      if (files.empty() || files.back() != tensor.file) files.push_back(tensor.file);
    report.sources.push_back(card_source(base.dir(), files));
  });
  const fs::path adapter = run_dir / "adapter";
  if (report.recipe.train.mode == TrainMode::kFull) {
    report.missing.emplace_back("adapter: the run trains every weight (train.mode: full), so there is none");
    return;
  }
  if (!fs::exists(adapter / "adapter_config.json")) {
    add_checkpoint(report, run_dir, config);
    return;
  }
  unless_missing(report, "adapter", [&] {
    report.sources.push_back(
        card_source(adapter, {adapter / "adapter_config.json", adapter / "adapter_model.safetensors"}));
    if (config) report.adapter = measure(read_adapter(adapter, *config));
  });
}

}  // namespace

RunReport read_run_report(const fs::path& run_dir, const std::function<void(std::int64_t, std::int64_t)>& progress) {
  if (!fs::exists(run_dir)) throw CheckpointError(run_dir.string() + ": there is nothing of this name; check the path");
  if (!fs::is_directory(run_dir) || !fs::exists(run_dir / "recipe.yaml")) {
    throw CheckpointError(run_dir.string() + ": is no run folder, having no recipe.yaml; expected the output_dir of " +
                          "`ossature train`");
  }
  RunReport report;
  report.recipe = read_recipe(run_dir / "recipe.yaml");
  report.has_result = fs::exists(run_dir / "adapter/adapter_config.json") || fs::exists(run_dir / "model/config.json");
  report.history = read_run_history(run_dir);
  report.summary = inspect_run(run_dir, report.recipe, report.history);
  report.sessions = read_sessions(run_dir);
  report.samples = read_sample_replies(run_dir);
  report.data = {"data",
                 {"file", "used_for", "weight", "samples", "tokens", "learned_tokens", "longest_sample", "mean_length"},
                 {}};
  for (const TrainingFile& file : report.recipe.data.train)
    add_token_file(report, "training", file.path, file.weight, progress);
  if (report.recipe.data.validation)
    add_token_file(report, "validation", *report.recipe.data.validation, 1.0, progress);
  add_models(report, run_dir);
  return report;
}

}  // namespace ossature
