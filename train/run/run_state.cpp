#include "train/run/run_state.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <span>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <nlohmann/json.hpp>

#include "data/token_file/crc32c.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/files/staging_directory.h"
#include "train/ranks/rank_link.h"

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

/// The bytes of a state are not those that were written.
class DamagedState : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

/// Of the tensors' bytes, as they follow each other in the file.
std::uint32_t checksum(const SafetensorsFile& file) {
  std::uint32_t sum = 0;
  for (const TensorInfo& info : file.tensors()) {
    const std::span<const std::byte> bytes = file.bytes(info);
    sum = crc32c(bytes.data(), bytes.size(), sum);
  }
  return sum;
}

/// Of position.json's fields but for its own.
std::uint32_t checksum(nlohmann::json position) {
  position.erase("crc32c");
  const std::string text = position.dump();
  return crc32c(text.data(), text.size());
}

RunPosition read_position(const fs::path& path, std::int64_t step, std::uint32_t& tensors_crc32c) {
  std::ifstream in(path);
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
    json.at("evaluation_due").get_to(position.evaluation_due);
    std::int64_t tensors = 0, own = 0;
    is_whole = read_count("step", position.step) && position.step == step &&
               read_count("skipped_steps", position.skipped_steps) && position.skipped_steps <= step &&
               read_count("epoch", position.data.epoch) && read_count("batch", position.data.batch) &&
               read_count("batches_in_epoch", position.batches_in_epoch) &&
               position.data.batch <= position.batches_in_epoch &&
               read_count("evaluations_without_gain", position.evaluations_without_gain) &&
               read_count("best_step", position.best_step) && read_count("tensors_crc32c", tensors) &&
               read_count("crc32c", own) && own == checksum(json);
    tensors_crc32c = static_cast<std::uint32_t>(tensors);
  } catch (const nlohmann::json::exception&) {  // a key is missing or of another type
  }
  if (!is_whole) throw DamagedState(path.string() + ": is missing or damaged");
  return position;
}

/// A state whose bytes are those that were written, of the parameters that are asked for.
struct OpenedState {
  std::shared_ptr<const SafetensorsFile> file;
  RunPosition position;
};

/// Throws DamagedState, or CheckpointError if the state is of another run.
OpenedState open_state(const fs::path& dir, std::int64_t step, const ParameterSet& parameters) {
  OpenedState state;
  try {
    state.file = SafetensorsFile::open(dir / kTensorFile);
  } catch (const CheckpointError& error) {
    throw DamagedState(error.what());
  }
  std::uint32_t expected_checksum = 0;
  state.position = read_position(dir / kPositionFile, step, expected_checksum);
  if (checksum(*state.file) != expected_checksum) {
    throw DamagedState((dir / kTensorFile).string() + ": has other bytes than were written (CRC-32C)");
  }
  const auto found = state.file->metadata().find("signature");
  if (found == state.file->metadata().end() || found->second != signature(parameters)) {
    throw CheckpointError(
        dir.string() +
        ": is of other parameters than the recipe now asks for; resume with the recipe that began the run");
  }
  return state;
}

/// The tensor `name`, which must be as `like`. Throws DamagedState.
at::Tensor read_like(const OpenedState& state, const fs::path& dir, const std::string& name, const at::Tensor& like) {
  const TensorInfo* info = state.file->find(name);
  if (info == nullptr || info->dtype != dtype_of(like) || info->shape != like.sizes().vec()) {
    throw DamagedState((dir / kTensorFile).string() + ": " + name + " is missing or misshapen");
  }
  at::Tensor tensor = wrap(state.file, *info);
  if (!tensor.isfinite().all().item<bool>()) {
    throw DamagedState((dir / kTensorFile).string() + ": " + name + " holds a value that is not finite");
  }
  return tensor;
}

struct SavedState {
  RunPosition position;
  at::Tensor values;
  AdamW::State moments;
};

/// Throws DamagedState, or CheckpointError if the state is of another run.
SavedState read_state(const fs::path& dir, std::int64_t step, const ParameterSet& parameters, const AdamW& optimizer) {
  const OpenedState state = open_state(dir, step, parameters);
  SavedState saved;
  saved.position = state.position;
  const TensorInfo* moment = state.file->find("exp_avg");
  if (const DType expected = dtype_of(optimizer.state().at("exp_avg"));
      moment != nullptr && moment->dtype != expected) {
    throw CheckpointError(dir.string() + ": the moments are " + std::string(dtype_name(moment->dtype)) +
                          ", the recipe's are " + std::string(dtype_name(expected)) +
                          "; resume with the train.optimizer_state that began the run");
  }
  saved.values = read_like(state, dir, "parameters", parameters.values());
  for (const auto& [name, tensor] : optimizer.state()) saved.moments[name] = read_like(state, dir, name, tensor);
  if (state.file->find("best") != nullptr) {
    const at::Tensor values = parameters.values();
    saved.position.best = read_like(state, dir, "best", values).to(values.device(), at::kFloat, false, true);
  }
  return saved;
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
  std::uint32_t tensors_crc32c = 0;
  SafetensorsWriter writer(staging.path() / kTensorFile, infos, {{"signature", signature(parameters)}});
  for (const auto& [name, tensor] : tensors) {
    write_tensor(tensor.detach().cpu(), [&](std::span<const std::byte> bytes) {
      writer.write(bytes);
      tensors_crc32c = crc32c(bytes.data(), bytes.size(), tensors_crc32c);
    });
  }
  writer.finish();
  nlohmann::json files = nlohmann::json::array();
  for (const TrainingFileIdentity& file : position.files) {
    files.push_back(
        {{"contents", file.fingerprint}, {"samples", file.samples}, {"tokens", file.tokens}, {"weight", file.weight}});
  }
  nlohmann::json json = {{"step", position.step},
                         {"skipped_steps", position.skipped_steps},
                         {"tensors_crc32c", tensors_crc32c},
                         {"training_files", files},
                         {"epoch", position.data.epoch},
                         {"batch", position.data.batch},
                         {"batches_in_epoch", position.batches_in_epoch},
                         {"best_validation_loss", position.best_validation_loss},
                         {"evaluations_without_gain", position.evaluations_without_gain},
                         {"best_step", position.best_step},
                         {"evaluation_due", position.evaluation_due}};
  json["crc32c"] = checksum(json);
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

std::optional<RunPosition> restore_run_state(const fs::path& run_dir, ParameterSet& parameters, AdamW& optimizer,
                                             const std::function<void(const std::string&)>& on_damage) {
  remove_unfinished(run_dir);
  const auto states = states_of(run_dir);
  std::optional<DamagedState> newest;
  for (auto it = states.rbegin(); it != states.rend(); ++it) {
    try {
      const SavedState saved = read_state(it->second, it->first, parameters, optimizer);
      at::NoGradGuard no_grad;
      parameters.values().copy_(saved.values);
      optimizer.restore(saved.position.step - saved.position.skipped_steps, saved.moments);
      return saved.position;
    } catch (const DamagedState& damage) {
      if (on_damage) on_damage(damage.what());
      if (!newest) newest = damage;
    }
  }
  if (newest) {
    throw CheckpointError(std::string(newest->what()) +
                          "; expected a checkpoint as it was written, and no other is whole; "
                          "remove " +
                          (run_dir / "checkpoints").string() + " to begin the run again");
  }
  return std::nullopt;
}

void share_run_state(Ranks& ranks, RunPosition& position, ParameterSet& parameters, AdamW& optimizer) {
  if (ranks.size() == 1) return;
  const auto share = [&](auto& value) { ranks.broadcast(std::as_writable_bytes(std::span(&value, 1))); };
  const auto share_tensor = [&](const at::Tensor& tensor) { ranks.broadcast(bytes_of(tensor)); };
  share(position.step);
  share(position.skipped_steps);
  share(position.data);
  share(position.best_validation_loss);
  share(position.evaluations_without_gain);
  share(position.best_step);
  share(position.evaluation_due);
  bool has_best = position.best.defined();
  share(has_best);
  at::NoGradGuard no_grad;
  if (has_best && !ranks.is_first()) position.best = at::empty_like(parameters.values());
  if (has_best) share_tensor(position.best);
  share_tensor(parameters.values());
  const AdamW::State moments = optimizer.state();  // the tensors themselves
  for (const auto& [name, tensor] : moments) share_tensor(tensor);
  optimizer.restore(position.step - position.skipped_steps, moments);
}

std::optional<std::int64_t> read_saved_values(const fs::path& run_dir, const ParameterSet& parameters) {
  const auto states = states_of(run_dir);
  for (auto it = states.rbegin(); it != states.rend(); ++it) {
    try {
      const OpenedState state = open_state(it->second, it->first, parameters);
      at::NoGradGuard no_grad;
      parameters.values().copy_(read_like(state, it->second, "parameters", parameters.values()));
      return it->first;
    } catch (const DamagedState&) {  // nor would the run go on with it
    }
  }
  return std::nullopt;
}

}  // namespace ossature
