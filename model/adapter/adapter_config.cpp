#include "model/adapter/adapter_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "model/adapter/name_pattern.h"
#include "model/files/json_file.h"

namespace ossature {
namespace {

using nlohmann::json;

constexpr std::uintmax_t kMaxConfigBytes = 1 << 20;
constexpr std::string_view kAdvice = "; take the file that belongs to the adapter";
constexpr double kMaxAlpha = 1e9;

/// Whether a value asks for nothing, as PEFT writes the features that are off.
bool is_unset(const json& value) {
  return value.is_null() || value == false || value == 0 || (value.is_structured() && value.empty()) || value == "";
}

/// Reads the keys of one adapter_config.json; every failure names the file and the key. Each key asked for counts as
/// known.
class ConfigReader {
 public:
  ConfigReader(const json& config, std::string where) : config_(config), where_(std::move(where)) {}

  /// nullptr when the key is absent or null.
  [[nodiscard]] const json* find(const std::string& key) {
    known_.insert(key);
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void fail(const std::string& key, const json& value, const std::string& expected) const {
    fail_json(where_, key + " is " + shown(value), expected, kAdvice);
  }

  [[nodiscard]] bool boolean(const std::string& key) {
    const json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) fail(key, *value, "true or false");
    return value->get<bool>();
  }
  [[nodiscard]] std::int64_t integer(const std::string& key, const json& value, std::int64_t min,
                                     std::int64_t max) const {
    const bool fits = value.is_number_integer() && value >= min && value <= max;
    if (!fits) fail(key, value, "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
    return value.get<std::int64_t>();
  }
  [[nodiscard]] double number(const std::string& key, const json& value, double min, double max,
                              const char* expected) const {
    if (!value.is_number() || !(value.get<double>() >= min && value.get<double>() <= max)) fail(key, value, expected);
    return value.get<double>();
  }
  [[nodiscard]] std::vector<std::string> names(const std::string& key) {
    std::vector<std::string> result;
    const json* value = find(key);
    if (value == nullptr) return result;
    const char* expected = "a list of names";
    if (!value->is_array()) fail(key, *value, expected);
    for (const json& name : *value) {
      if (!name.is_string()) fail(key, *value, expected);
      result.push_back(name.get<std::string>());
    }
    return result;
  }
  /// Calls take(key of the pattern's entry, pattern, value) for each entry of an object of patterns.
  template <typename Take>
  void patterns(const std::string& key, const Take& take) {
    const json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_object()) fail(key, *value, "an object of patterns");
    for (const auto& [pattern, entry] : value->items()) take(key + "[" + shown(pattern) + "]", pattern, entry);
  }

  /// Known, and without a part in what an adapter computes.
  void pass_over(const std::vector<std::string>& keys) { known_.insert(keys.begin(), keys.end()); }
  void refuse_unknown() const {
    for (const auto& [key, value] : config_.items()) {
      if (known_.count(key) > 0 || is_unset(value)) continue;
      fail_json(where_, shown(key) + " is " + shown(value) + ", a feature that Ossature does not compute", "it unset",
                "; train the adapter without it, or remove the key if it changes none of the adapter's values");
    }
  }

 private:
  const json& config_;
  std::string where_;
  std::set<std::string> known_;
};

std::int64_t rank_of(const ConfigReader& reader, const std::string& key, const json& value) {
  return reader.integer(key, value, 1, kMaxLoraRank);
}
double alpha_of(const ConfigReader& reader, const std::string& key, const json& value) {
  return reader.number(key, value, -kMaxAlpha, kMaxAlpha, "a number of at most 1e9 in size");
}

/// Module names of the model that a regular expression matches in full, as PEFT does with a string.
std::vector<std::string> modules_matching(const json& value, const ModelConfig& model, const ConfigReader& reader) {
  const auto pattern = value.get<std::string>();
  const std::vector<std::string> modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
  if (pattern == "all-linear") return modules;
  std::vector<std::string> names;
  const NamePattern expression("target_modules", pattern);
  for (std::int64_t n = 0; n < model.num_hidden_layers; ++n) {
    for (const std::string& module : modules) {
      const std::string name = "model.layers." + std::to_string(n) + ".self_attn." + module;
      if (expression.matches(name)) names.push_back(name);
    }
  }
  if (names.empty())
    reader.fail("target_modules", value, "a regular expression that matches q_proj, k_proj, v_proj or o_proj");
  return names;
}

std::vector<std::int64_t> layers_of(ConfigReader& reader, const ModelConfig& model) {
  const json* value = reader.find("layers_to_transform");
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<std::int64_t> layers;
  for (const json& layer : list) {
    layers.push_back(reader.integer("layers_to_transform", layer, 0, model.num_hidden_layers - 1));
  }
  return layers;
}

LoraConfig parse(ConfigReader& reader, const ModelConfig& model) {
  const json* type = reader.find("peft_type");
  if (type == nullptr || *type != "LORA") reader.fail("peft_type", type == nullptr ? json() : *type, "\"LORA\"");
  const json* bias = reader.find("bias");
  if (bias != nullptr && *bias != "none") reader.fail("bias", *bias, "\"none\": Ossature trains and reads no biases");
  // The others change the base model's weights as well, by what they store in no file.
  const json* init = reader.find("init_lora_weights");
  if (init != nullptr && !init->is_boolean() && *init != "gaussian" && *init != "eva" && *init != "orthogonal")
    reader.fail("init_lora_weights", *init, "true, false, \"gaussian\", \"eva\" or \"orthogonal\"");
  const json* task = reader.find("task_type");
  if (task != nullptr && *task != "CAUSAL_LM") reader.fail("task_type", *task, "\"CAUSAL_LM\"");

  LoraConfig config;
  const json* r = reader.find("r");
  config.r = r == nullptr ? 8 : rank_of(reader, "r", *r);  // PEFT's default
  const json* alpha = reader.find("lora_alpha");
  config.lora_alpha = alpha == nullptr ? 8.0 : alpha_of(reader, "lora_alpha", *alpha);  // PEFT's default
  const json* dropout = reader.find("lora_dropout");
  const double below_one = std::nextafter(1.0, 0.0);
  if (dropout != nullptr)
    config.lora_dropout = reader.number("lora_dropout", *dropout, 0.0, below_one, "a number from 0 to below 1");
  config.use_rslora = reader.boolean("use_rslora");
  reader.patterns("rank_pattern", [&](const std::string& key, const std::string& pattern, const json& value) {
    config.rank_pattern[pattern] = rank_of(reader, key, value);
  });
  reader.patterns("alpha_pattern", [&](const std::string& key, const std::string& pattern, const json& value) {
    config.alpha_pattern[pattern] = alpha_of(reader, key, value);
  });
  config.target_parameters = reader.names("target_parameters");
  const json* modules = reader.find("target_modules");
  if (modules != nullptr && modules->is_string()) {
    config.target_modules = modules_matching(*modules, model, reader);
  } else {
    config.target_modules = reader.names("target_modules");
  }
  config.layers_to_transform = layers_of(reader, model);
  reader.pass_over({"auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode",
                    "ensure_weight_tying", "megatron_core", "qalora_group_size", "runtime_config", "eva_config",
                    "corda_config", "loftq_config", "lora_ga_config"});
  reader.refuse_unknown();
  return config;
}

/// PEFT takes the first pattern that matches, in the order of the file (which it writes in alphabetical order);
/// LoraConfig has the alphabetical order.
void check_order(const ConfigReader& reader, const std::string& key, const std::vector<std::string>& order,
                 const std::vector<LoraTarget>& targets) {
  if (std::is_sorted(order.begin(), order.end())) return;
  std::vector<std::string> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  const NamePatterns in_file(key, order), in_alphabet(key, sorted);
  for (const LoraTarget& target : targets) {
    const auto theirs = in_file.first_match(target.name), ours = in_alphabet.first_match(target.name);
    if (theirs && order[*theirs] != sorted[*ours])
      reader.fail(key, json(order), "patterns in alphabetical order, since two of them match " + target.name);
  }
}

}  // namespace

LoraConfig read_adapter_config(const std::filesystem::path& file, const ModelConfig& model) {
  KeyOrder order;
  const json root = read_json_object(file, kMaxConfigBytes, kAdvice, &order);
  ConfigReader reader(root, file.string());
  try {
    LoraConfig config = parse(reader, model);
    const std::vector<LoraTarget> targets = lora_targets(config, model);
    for (const char* key : {"rank_pattern", "alpha_pattern"}) check_order(reader, key, order[key], targets);
    return config;
  } catch (const CheckpointError& error) {
    const std::string what = error.what();
    throw CheckpointError(what.starts_with(file.string()) ? what : file.string() + ": " + what);
  }
}

std::string read_adapter_base_model(const std::filesystem::path& file) {
  const json root = read_json_object(file, kMaxConfigBytes, kAdvice);
  const auto found = root.find("base_model_name_or_path");
  return found != root.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string adapter_config_json(const Lora& lora, const std::string& base_model) {
  const LoraConfig& config = lora.config();
  const auto null_if_empty = [](const auto& list) { return list.empty() ? json() : json(list); };
  const bool has_experts = std::any_of(lora.targets().begin(), lora.targets().end(),
                                       [](const LoraTarget& target) { return target.a_shape.size() == 3; });
  json root;
  root["peft_type"] = "LORA";
  root["task_type"] = "CAUSAL_LM";
  root["peft_version"] = "0.21.0";  // whose format this is
  root["base_model_name_or_path"] = base_model;
  root["revision"] = nullptr;
  root["r"] = config.r;
  root["lora_alpha"] = config.lora_alpha;
  if (config.lora_alpha == std::floor(config.lora_alpha) && std::abs(config.lora_alpha) <= kMaxAlpha)
    root["lora_alpha"] = static_cast<std::int64_t>(config.lora_alpha);
  root["lora_dropout"] = has_experts ? 0.0 : config.lora_dropout;
  root["use_rslora"] = config.use_rslora;
  root["target_modules"] = config.target_modules;
  root["target_parameters"] = null_if_empty(config.target_parameters);
  root["layers_to_transform"] = null_if_empty(config.layers_to_transform);
  root["rank_pattern"] = json::object();
  for (const auto& [pattern, r] : config.rank_pattern) root["rank_pattern"][pattern] = r;
  root["alpha_pattern"] = json::object();
  for (const auto& [pattern, alpha] : config.alpha_pattern) root["alpha_pattern"][pattern] = alpha;
  root["bias"] = "none";
  root["fan_in_fan_out"] = false;
  root["inference_mode"] = true;
  root["init_lora_weights"] = true;
  root["layers_pattern"] = nullptr;
  root["lora_bias"] = false;
  root["modules_to_save"] = nullptr;
  root["exclude_modules"] = nullptr;
  root["use_dora"] = false;
  return root.dump(2) + "\n";
}

}  // namespace ossature
