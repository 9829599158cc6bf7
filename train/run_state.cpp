#include "train/run_state.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <vector>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "model/checkpoint.h"
#include "model/checkpoint_writer.h"
#include "model/staging_directory.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTensorFile = "state.safetensors";
constexpr const char* kPositionFile = "position.json";

/// Complete states of a run by step. A state appears under its name only when whole.
std::map<std::int64_t, fs::path> states_of(const fs::path& run_dir) {
  std::map<std::int64_t, fs::path> states;
  const fs::path dir = run_dir / "checkpoints";
  if (!fs::is_directory(dir)) return states;
  const std::string prefix = "step-";
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    constexpr std::size_t kMostDigits = 18;  // more do not fit into 64 bits
    const bool is_state =
        name.starts_with(prefix) && name.size() > prefix.size() && name.size() <= prefix.size() + kMostDigits &&
        name.find_first_not_of("0123456789", prefix.size()) == std::string::npos && entry.is_directory();
    if (is_state) states[std::stoll(name.substr(prefix.size()))] = entry.path();
  }
  return states;
}

/// Removes states that a killed program began and did not complete.
void remove_unfinished(const fs::path& run_dir) {
  const fs::path dir = run_dir / "checkpoints";
  if (!fs::is_directory(dir)) return;
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.find(".partial-") != std::string::npos) unfinished.push_back(entry.path());
  }
  for (const fs::path& path : unfinished) fs::remove_all(path);
}

DType dtype_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat) return DType::kF32;
  return tensor.scalar_type() == at::kBFloat16 ? DType::kBF16 : DType::kU8;
}

/// Names and shapes: a state of other parameters must not be loaded.
std::string signature(const ParameterSet& parameters) {
  std::string text;
  for (const ParameterSpec& spec : parameters.specs()) {
    text += spec.name;
    for (const auto size : spec.shape) text += ' ' + std::to_string(size);
    text += '\n';
  }
  return std::to_string(std::hash<std::string>{}(text));
}

}  // namespace

void save_run_state(const fs::path& run_dir, const RunPosition& position, const ParameterSet& parameters,
                    const AdamW& optimizer, std::int64_t keep) {
  const fs::path dir = run_dir / "checkpoints" / ("step-" + std::to_string(position.step));
  fs::create_directories(dir.parent_path());
  fs::remove_all(dir);
  StagingDirectory staging(dir);
  std::map<std::string, at::Tensor> by_name = optimizer.state();
  by_name["parameters"] = parameters.values();
  if (position.best.defined()) by_name["best"] = position.best;
  std::vector<std::pair<std::string, at::Tensor>> tensors(by_name.begin(), by_name.end());
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) infos.push_back({name, dtype_of(tensor), tensor.sizes().vec()});
  SafetensorsWriter writer(staging.path() / kTensorFile, infos, {{"signature", signature(parameters)}});
  for (const auto& [name, tensor] : tensors) {
    write_tensor(tensor.detach().cpu(), [&](std::span<const std::byte> bytes) { writer.write(bytes); });
  }
  writer.finish();
  nlohmann::json files = nlohmann::json::array();
  for (const TrainingFileIdentity& file : position.files) {
    files.push_back(
        {{"contents", file.fingerprint}, {"samples", file.samples}, {"tokens", file.tokens}, {"weight", file.weight}});
  }
  const nlohmann::json json = {{"step", position.step},
                               {"training_files", files},
                               {"epoch", position.data.epoch},
                               {"batch", position.data.batch},
                               {"batches_in_epoch", position.batches_in_epoch},
                               {"best_validation_loss", position.best_validation_loss},
                               {"evaluations_without_gain", position.evaluations_without_gain},
                               {"best_step", position.best_step}};
  write_text_file(staging.path() / kPositionFile, json.dump(2) + "\n");
  staging.commit();

  auto states = states_of(run_dir);
  while (static_cast<std::int64_t>(states.size()) > keep) {
    fs::remove_all(states.begin()->second);
    states.erase(states.begin());
  }
}

bool has_run_state(const fs::path& run_dir) {
  return !states_of(run_dir).empty();
}

std::optional<RunPosition> restore_run_state(const fs::path& run_dir, ParameterSet& parameters, AdamW& optimizer) {
  remove_unfinished(run_dir);
  const auto states = states_of(run_dir);
  if (states.empty()) return std::nullopt;
  const auto& [step, dir] = *states.rbegin();
  const auto fail = [](const fs::path& path, const std::string& what) {
    throw CheckpointError(path.string() + ": " + what + "; remove " + path.parent_path().string() +
                          " to resume from an older checkpoint, or from the beginning if there is none");
  };
  const auto file = SafetensorsFile::open(dir / kTensorFile);
  const auto found = file->metadata().find("signature");
  if (found == file->metadata().end() || found->second != signature(parameters)) {
    throw CheckpointError(
        dir.string() +
        ": is of other parameters than the recipe now asks for; resume with the recipe that began the run");
  }
  const TensorInfo* moment = file->find("exp_avg");
  if (const DType expected = dtype_of(optimizer.state().at("exp_avg"));
      moment != nullptr && moment->dtype != expected) {
    throw CheckpointError(dir.string() + ": the moments are " + std::string(dtype_name(moment->dtype)) +
                          ", the recipe's are " + std::string(dtype_name(expected)) +
                          "; resume with the train.optimizer_state that began the run");
  }
  const auto read = [&](const std::string& name, const at::Tensor& like) {
    const TensorInfo* info = file->find(name);
    if (info == nullptr || info->dtype != dtype_of(like) || info->shape != like.sizes().vec()) {
      fail(dir / kTensorFile, name + " is missing or misshapen");
    }
    at::Tensor tensor = wrap(file, *info);
    if (!tensor.isfinite().all().item<bool>()) {
      fail(dir / kTensorFile, name + " holds a value that is not finite");
    }
    return tensor;
  };
  std::ifstream in(dir / kPositionFile);
  const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  RunPosition position;
  const auto read_count = [&json](const char* key, std::int64_t& value) {
    value = json.at(key).is_number_integer() ? json.at(key).get<std::int64_t>() : -1;
    return value >= 0;
  };
  bool is_whole = false;
  try {
    json.at("best_validation_loss").get_to(position.best_validation_loss);
    for (const nlohmann::json& saved_file : json.at("training_files").get<nlohmann::json::array_t>()) {
      position.files.push_back({saved_file.at("contents").get<std::string>(),
                                saved_file.at("samples").get<std::int64_t>(),
                                saved_file.at("tokens").get<std::int64_t>(), saved_file.at("weight").get<double>()});
    }
    is_whole = read_count("step", position.step) && position.step == step && read_count("epoch", position.data.epoch) &&
               read_count("batch", position.data.batch) && read_count("batches_in_epoch", position.batches_in_epoch) &&
               position.data.batch <= position.batches_in_epoch &&
               read_count("evaluations_without_gain", position.evaluations_without_gain) &&
               read_count("best_step", position.best_step);
  } catch (const nlohmann::json::exception&) {  // a key is missing or of another type
  }
  if (!is_whole) fail(dir / kPositionFile, "is missing or damaged");
  at::Tensor values = parameters.values();
  const at::Tensor saved = read("parameters", values);
  AdamW::State moments;
  for (const auto& [name, tensor] : optimizer.state()) moments[name] = read(name, tensor);
  at::NoGradGuard no_grad;
  if (file->find("best") != nullptr) position.best = read("best", values).to(values.device(), at::kFloat, false, true);
  values.copy_(saved);
  optimizer.restore(position.step, moments);
  return position;
}

}  // namespace ossature
