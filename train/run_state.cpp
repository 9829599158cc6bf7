#include "train/run_state.h"

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
    const bool is_state = name.starts_with(prefix) && name.size() > prefix.size() &&
                          name.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
    if (is_state) states[std::stoll(name.substr(prefix.size()))] = entry.path();
  }
  return states;
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
  const std::map<std::string, at::Tensor> tensors = {
      {"exp_avg", optimizer.exp_avg()}, {"exp_avg_sq", optimizer.exp_avg_sq()}, {"parameters", parameters.values()}};
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors) infos.push_back({name, DType::kF32, tensor.sizes().vec()});
  SafetensorsWriter writer(staging.path() / kTensorFile, infos, {{"signature", signature(parameters)}});
  for (const auto& [name, tensor] : tensors) {
    write_tensor(tensor.detach().cpu(), [&](std::span<const std::byte> bytes) { writer.write(bytes); });
  }
  writer.finish();
  const nlohmann::json json = {{"step", position.step},
                               {"epoch", position.data.epoch},
                               {"batch", position.data.batch},
                               {"best_validation_loss", position.best_validation_loss},
                               {"evaluations_without_gain", position.evaluations_without_gain}};
  write_text_file(staging.path() / kPositionFile, json.dump(2) + "\n");
  staging.commit();

  auto states = states_of(run_dir);
  while (static_cast<std::int64_t>(states.size()) > keep) {
    fs::remove_all(states.begin()->second);
    states.erase(states.begin());
  }
}

std::optional<RunPosition> restore_run_state(const fs::path& run_dir, ParameterSet& parameters, AdamW& optimizer) {
  const auto states = states_of(run_dir);
  if (states.empty()) return std::nullopt;
  const fs::path dir = states.rbegin()->second;
  const auto file = SafetensorsFile::open(dir / kTensorFile);
  const auto found = file->metadata().find("signature");
  if (found == file->metadata().end() || found->second != signature(parameters)) {
    throw CheckpointError(
        dir.string() +
        ": is of other parameters than the recipe now asks for; resume with the recipe that began the run");
  }
  const auto read = [&](const char* name) {
    const TensorInfo* info = file->find(name);
    if (info == nullptr || info->dtype != DType::kF32 || info->shape != std::vector<std::int64_t>{parameters.numel()}) {
      throw CheckpointError((dir / kTensorFile).string() + ": " + name +
                            " is missing or misshapen; remove this directory to resume from an older one");
    }
    return wrap(file, *info);
  };
  std::ifstream in(dir / kPositionFile);
  const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  RunPosition position;
  try {
    json.at("step").get_to(position.step);
    json.at("epoch").get_to(position.data.epoch);
    json.at("batch").get_to(position.data.batch);
    json.at("best_validation_loss").get_to(position.best_validation_loss);
    json.at("evaluations_without_gain").get_to(position.evaluations_without_gain);
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError((dir / kPositionFile).string() +
                          ": is damaged; remove this directory to resume from an older one");
  }
  at::NoGradGuard no_grad;
  at::Tensor values = parameters.values();
  values.copy_(read("parameters"));
  optimizer.restore(position.step, read("exp_avg"), read("exp_avg_sq"));
  return position;
}

}  // namespace ossature
