#include "train/reports/inspection.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>

#include "data/token_file/token_file.h"
#include "model/checkpoint/checkpoint.h"
#include "model/files/gguf.h"
#include "model/files/safetensors.h"
#include "train/recipe/recipe.h"
#include "train/reports/token_report.h"
#include "train/run/run_history.h"
#include "train/run/training_files.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::int64_t num_elements(const TensorInfo& info) {
  return std::accumulate(info.shape.begin(), info.shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t num_bytes(const TensorInfo& info) {
  return static_cast<std::int64_t>(info.end - info.begin);
}

/// What a row of a table sums up.
struct Group {
  std::set<std::string> dtypes;
  std::int64_t tensors = 0;
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
};

constexpr std::array<std::string_view, 6> kCheckpointGroups = {"embedding", "attention", "router",
                                                               "experts",   "norms",     "head"};

/// The group of a tensor of any layout.
std::string_view checkpoint_group(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (name == "lm_head.weight" || name == "unembedding.weight" || name == "output.weight") return "head";
  if (name == "model.embed_tokens.weight" || name == "embedding.weight" || name == "token_embd.weight")
    return "embedding";
  if (has("norm.")) return "norms";
  if (has(".experts.") || has(".mlp1_") || has(".mlp2_") || has("_exps.")) return "experts";
  return has(".mlp.") || has(".ffn_gate_inp.") ? "router" : "attention";
}

Inspection::Table files_table(const std::vector<StoredTensor>& tensors) {
  Inspection::Table table{"files", {"file", "tensors", "bytes"}, {}};
  for (std::size_t begin = 0, end = 0; begin < tensors.size(); begin = end) {
    std::int64_t bytes = 0;
    for (; end < tensors.size() && tensors[end].file == tensors[begin].file; ++end) bytes += tensors[end].bytes;
    table.rows.push_back({tensors[begin].file.filename().string(), static_cast<std::int64_t>(end - begin), bytes});
  }
  return table;
}

Inspection inspect_checkpoint(const fs::path& dir) {
  const Checkpoint checkpoint(dir);
  const ModelConfig& config = checkpoint.config();
  std::map<std::string_view, Group> groups;
  const std::vector<StoredTensor> tensors = checkpoint.stored_tensors();
  for (const StoredTensor& tensor : tensors) {
    Group& group = groups[checkpoint_group(tensor.name)];
    group.tensors += 1;
    group.bytes += tensor.bytes;
    group.parameters += tensor.parameters;
    if (!tensor.dtype.empty()) group.dtypes.insert(tensor.dtype);
  }
  Inspection::Table table{"groups", {"group", "dtype", "tensors", "parameters", "bytes"}, {}};
  for (const std::string_view name : kCheckpointGroups) {
    const Group& group = groups[name];
    std::string dtypes;
    for (const std::string& dtype : group.dtypes) dtypes += (dtypes.empty() ? "" : "+") + dtype;
    table.rows.push_back({std::string(name), dtypes, group.tensors, group.parameters, group.bytes});
  }
  return {"checkpoint",
          dir,
          {{"layout", checkpoint.layout() == Layout::kHf       ? "transformers"
                      : checkpoint.layout() == Layout::kOpenAi ? "openai"
                                                               : "gguf"},
           {"experts", checkpoint.experts() == ExpertStorage::kMxfp4   ? "mxfp4"
                       : checkpoint.experts() == ExpertStorage::kMixed ? "mixed"
                                                                       : "dense"},
           {"parameters", checkpoint.num_parameters()},
           {"stored_bytes", checkpoint.stored_bytes()},
           {"num_hidden_layers", config.num_hidden_layers},
           {"hidden_size", config.hidden_size},
           {"intermediate_size", config.intermediate_size},
           {"num_attention_heads", config.num_attention_heads},
           {"num_key_value_heads", config.num_key_value_heads},
           {"head_dim", config.head_dim},
           {"num_local_experts", config.num_local_experts},
           {"num_experts_per_tok", config.num_experts_per_tok},
           {"sliding_window", config.sliding_window},
           {"max_position_embeddings", config.max_position_embeddings},
           {"vocab_size", config.vocab_size}},
          {std::move(table), files_table(tensors)}};
}

/// A model, or an adapter for llama.cpp.
Inspection inspect_gguf(const fs::path& path) {
  const std::shared_ptr<const GgufFile> file = GgufFile::open(path);
  const auto text = [&](const char* key) {
    const GgufValue* value = file->find_value(key);
    const auto* found = value != nullptr ? std::get_if<std::string>(value) : nullptr;
    return found != nullptr ? *found : "";
  };
  if (text("general.type") != "adapter") return inspect_checkpoint(path);
  Inspection::Table table{"tensors", {"tensor", "dtype", "shape"}, {}};
  std::int64_t parameters = 0;
  for (const GgufTensor& tensor : file->tensors()) {
    std::int64_t count = 1;
    std::string shape;
    for (const std::int64_t size : tensor.shape) {
      count *= size;
      shape += (shape.empty() ? "" : " x ") + std::to_string(size);
    }
    parameters += count;
    table.rows.push_back({tensor.name, std::string(ggml_type_name(tensor.type)), shape});
  }
  return {"adapter",
          path,
          {{"layout", "gguf"}, {"architecture", text("general.architecture")}, {"parameters", parameters}},
          {std::move(table)}};
}

/// adapter_config.json by type; every complaint names the key.
class AdapterConfig {
 public:
  explicit AdapterConfig(const fs::path& file) : where_(file.string()) {
    std::ifstream in(file);
    root_ = json::parse(in, nullptr, /*allow_exceptions=*/false);
    if (!root_.is_object()) throw CheckpointError(where_ + ": it is not JSON; expected PEFT's object of settings");
  }

  [[nodiscard]] std::vector<std::string> names(const std::string& key) const {
    const json value = root_.value(key, json());
    if (value.is_null()) return {};
    if (value.is_string()) return {value.get<std::string>()};
    const bool is_list = value.is_array() && std::all_of(value.begin(), value.end(), [](const json& item) {
                           return item.is_string() || item.is_number_integer();
                         });
    if (!is_list) refuse(key, "a list of names");
    std::vector<std::string> names;
    for (const json& item : value) names.push_back(item.is_string() ? item.get<std::string>() : item.dump());
    std::sort(names.begin(), names.end());
    return names;
  }

  [[nodiscard]] std::int64_t integer(const std::string& key) const {
    const json value = root_.value(key, json());
    if (!value.is_number_integer()) refuse(key, "a whole number");
    return value.get<std::int64_t>();
  }

  [[nodiscard]] double number(const std::string& key, const std::optional<double>& fallback = {}) const {
    const json value = root_.value(key, json());
    if (value.is_null() && fallback) return *fallback;
    if (!value.is_number()) refuse(key, "a number");
    return value.get<double>();
  }

  [[nodiscard]] bool flag(const std::string& key) const {
    const json value = root_.value(key, json());
    if (!value.is_null() && !value.is_boolean()) refuse(key, "true or false");
    return value == true;
  }

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
    const std::string found = root_.contains(key) ? "is " + root_[key].dump(-1, ' ', true).substr(0, 80) : "is missing";
    throw CheckpointError(where_ + ": " + key + " " + found + "; expected " + expected + ", as PEFT writes it");
  }

  std::string where_;
  json root_;
};

/// "self_attn.q_proj" of "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"; "other" if it is no such
/// key.
std::string adapter_group(const std::string& name) {
  const std::size_t layers = name.find(".layers.");
  const std::size_t pair = name.find(".lora_");
  if (layers == std::string::npos || pair == std::string::npos) return "other";
  const std::size_t module = name.find('.', layers + 8);
  return module < pair ? name.substr(module + 1, pair - module - 1) : "other";
}

Inspection inspect_adapter(const fs::path& dir) {
  const AdapterConfig config(dir / "adapter_config.json");
  const auto file = SafetensorsFile::open(dir / "adapter_model.safetensors");
  std::map<std::string, Group> groups;
  Group all;
  for (const TensorInfo& info : file->tensors()) {
    for (Group* group : {&groups[adapter_group(info.name)], &all}) {
      group->dtypes.insert(std::string(dtype_name(info.dtype)));
      group->tensors += 1;
      group->parameters += num_elements(info);
      group->bytes += num_bytes(info);
    }
  }
  // PEFT's key of an expert pair depends on which others there are (model/adapter/adapter.h).
  const std::vector<std::string> parameters = config.names("target_parameters");
  const bool is_down_alone = std::none_of(parameters.begin(), parameters.end(),
                                          [](const std::string& name) { return name.ends_with("gate_up_proj"); });
  const bool has_both = groups.contains("mlp.experts.base_layer");
  Inspection::Table table{"groups", {"group", "dtype", "tensors", "parameters", "bytes"}, {}};
  for (const auto& [key, group] : groups) {
    std::string name = key;
    if (key == "mlp.experts.base_layer") name = "mlp.experts.gate_up_proj";
    if (key == "mlp.experts") name = has_both || is_down_alone ? "mlp.experts.down_proj" : "mlp.experts.gate_up_proj";
    table.rows.push_back({name, *group.dtypes.begin(), group.tensors, group.parameters, group.bytes});
  }
  const std::vector<std::string> base = config.names("base_model_name_or_path");
  return {"adapter",
          dir,
          {{"r", config.integer("r")},
           {"lora_alpha", config.number("lora_alpha")},
           {"lora_dropout", config.number("lora_dropout", 0.0)},
           {"use_rslora", config.flag("use_rslora")},
           {"target_modules", config.names("target_modules")},
           {"target_parameters", parameters},
           {"layers_to_transform", config.names("layers_to_transform")},
           {"base_model", base.empty() ? "unnamed" : base.front()},
           {"tensors", all.tensors},
           {"parameters", all.parameters},
           {"stored_bytes", all.bytes}},
          {std::move(table)}};
}

Inspection inspect_safetensors(const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  Inspection::Table table{"tensors", {"name", "dtype", "shape", "bytes"}, {}};
  std::int64_t bytes = 0;
  for (const TensorInfo& info : file->tensors()) {
    std::string shape;
    for (const std::int64_t size : info.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(size);
    table.rows.push_back({info.name, std::string(dtype_name(info.dtype)), shape, num_bytes(info)});
    bytes += num_bytes(info);
  }
  return {"safetensors file",
          path,
          {{"num_tensors", static_cast<std::int64_t>(file->tensors().size())}, {"stored_bytes", bytes}},
          {std::move(table)}};
}

/// The names of run_dir/checkpoints/step-N, oldest first.
std::vector<std::string> saved_steps(const fs::path& run_dir) {
  std::map<std::int64_t, std::string> steps;
  std::error_code absent;
  for (const auto& entry : fs::directory_iterator(run_dir / "checkpoints", absent)) {
    const std::string name = entry.path().filename().string();
    const bool is_step = name.starts_with("step-") && name.size() > 5 && name.size() < 24 &&
                         name.find_first_not_of("0123456789", 5) == std::string::npos;
    if (is_step) steps[std::stoll(name.substr(5))] = name;
  }
  std::vector<std::string> names;
  for (const auto& [step, name] : steps) names.push_back(name);
  return names;
}

}  // namespace

Inspection inspect_run(const fs::path& dir, const Recipe& recipe, const RunHistory& history) {
  Inspection inspection{"run", dir, {}, {}};
  auto& fields = inspection.fields;
  fields.emplace_back("base_model", recipe.base_model.string());
  fields.emplace_back("mode", recipe.train.mode == TrainMode::kLora ? "lora" : "full");
  fields.emplace_back("data", names_of(recipe.data.train));

  fields.emplace_back("steps", history.last_step());
  if (!history.skipped.empty()) fields.emplace_back("skipped_steps", history.skipped.back().skipped_steps);
  const auto add = [&](const char* name, double value) {
    if (!std::isnan(value)) fields.emplace_back(name, value);
  };
  if (!history.steps.empty()) {
    const StepMetrics& last = history.steps.back();
    add("first_loss", history.steps.front().loss);
    add("last_loss", last.loss);
    add("learning_rate", last.learning_rate);
    add("grad_norm", last.grad_norm);
    add("tokens_per_second", last.tokens_per_second());
    if (last.peak_rss_bytes > 0) fields.emplace_back("peak_rss_bytes", last.peak_rss_bytes);
  }
  fields.emplace_back("tokens", history.tokens());
  fields.emplace_back("seconds", history.seconds());
  if (const ValidationMetrics* best = history.best()) {
    fields.emplace_back("best_validation_loss", best->validation_loss);
    fields.emplace_back("best_step", best->step);
  }
  Inspection::Table validations{"validations", {"step", "validation_loss"}, {}};
  for (const ValidationMetrics& validation : history.validations)
    validations.rows.push_back({validation.step, validation.validation_loss});
  fields.emplace_back("adapter", fs::exists(dir / "adapter" / "adapter_config.json") ? "adapter" : "none yet");
  fields.emplace_back("checkpoints", saved_steps(dir));
  inspection.tables.push_back(std::move(validations));
  return inspection;
}

Inspection inspect(const fs::path& path, const fs::path& tokenizer) {
  const fs::path name = path.has_filename() ? path : path.parent_path();
  if (!fs::exists(path)) throw CheckpointError(path.string() + ": there is nothing of this name; check the path");
  if (!fs::is_directory(path)) {
    if (path.extension() == ".safetensors") return inspect_safetensors(path);
    if (path.extension() == ".gguf") return inspect_gguf(path);
    if (path.extension() == ".h5") {
      const TokenFileReader file(path);
      Inspection report = describe_structure(file);
      add_contents(file, tokenizer, report);
      return report;
    }
    throw CheckpointError(
        path.string() +
        ": a file of a kind that inspect does not know; expected *.h5, *.safetensors, *.gguf or a folder");
  }
  if (fs::exists(path / "adapter_config.json")) return inspect_adapter(name);
  if (fs::exists(path / "recipe.yaml"))
    return inspect_run(name, read_recipe(name / "recipe.yaml"), read_run_history(name));
  if (fs::exists(path / "config.json") || fs::exists(path / "original" / "config.json"))
    return inspect_checkpoint(name);
  throw CheckpointError(path.string() +
                        ": the folder holds no config.json, adapter_config.json or recipe.yaml; expected a checkpoint, "
                        "an adapter or a run");
}

}  // namespace ossature
