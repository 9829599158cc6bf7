#include "model/export/calibrated_rounding.h"

#include <cstdio>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/merge.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/export/calibration.h"
#include "model/export/neighbour_rounding.h"
#include "model/export/requantize.h"
#include "model/files/safetensors.h"

namespace ossature {
namespace {

std::string prefix_of(std::int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts.";
}

/// One of a layer's two weights.
struct Weight {
  std::string name;  // transformers'
  ExpertWeight base;
  at::Tensor bias;
  const LowRank* pair;
  RoundedTo grid;

  [[nodiscard]] std::vector<std::int64_t> rounded_shape() const {
    if (grid == RoundedTo::kMxfp4) return base.packed.blocks.sizes().vec();
    return {base.num_experts(), base.out_features(), base.in_features() / 8};
  }
};

/// The names in a layer's file, beside the weight's: its result, and of codes the corrected bias.
constexpr const char *kRounded = "_rounded", *kBias = "_bias";

/// Those of layer `n` that carry a pair and are to be rounded: a float32 weight is stored as such.
std::vector<Weight> weights_of(const Checkpoint& base, const Layer& layer, std::int64_t n, RoundedTo grid) {
  std::vector<Weight> result;
  for (const auto& [kind, pair] : {std::pair("gate_up_proj", &layer.experts.gate_up_low_rank),
                                   std::pair("down_proj", &layer.experts.down_low_rank)}) {
    if (!pair->defined()) continue;
    const std::string name = prefix_of(n) + kind;
    ExpertWeight weight = base.expert_weight(name);
    const bool is_due = grid == RoundedTo::kMxfp4 ? weight.is_packed() : base.expert_dtype(name) != at::kFloat;
    if (is_due) result.push_back({name, std::move(weight), base.tensor(name + kBias), pair, grid});
  }
  return result;
}

/// A weight's result.
struct Rounded {
  at::Tensor values;  // blocks, or the choices of neighbour_rounding.h
  at::Tensor bias;    // of codes
  RoundingGain gain;
};

Rounded round_weight(const Weight& weight, MomentSums& moments, const RoundingSettings& settings,
                     const std::function<void()>& after_expert) {
  const auto num_experts = weight.base.num_experts();
  const bool is_codes = weight.grid == RoundedTo::kMxfp4;
  Rounded result{at::empty(weight.rounded_shape(), at::kByte), {}, {}};
  if (is_codes) result.bias = weight.bias.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  for (std::int64_t e = 0; e < num_experts; ++e) {
    const LowRank delta = expert_pair(*weight.pair, e);
    if (!delta.a.isfinite().all().item<bool>() || !delta.b.isfinite().all().item<bool>()) {
      throw CheckpointError("export: " + weight.name +
                            ": the adapter has a value that is not finite; expected finite " +
                            "numbers; the adapter is damaged or diverged");
    }
    RoundingGain gain;
    if (is_codes) {
      const RoundedExpert rounded = requantize(weight.base.packed, e, delta, moments.moments(e), settings);
      result.values[e].copy_(rounded.blocks);
      result.bias[e] += rounded.bias_correction;
      gain = rounded.gain;
    } else {
      const RoundedToNeighbours rounded = round_to_neighbours(weight.base, e, delta, moments.moments(e), settings);
      result.values[e].copy_(rounded.upper);
      gain = rounded.gain;
    }
    result.gain.realised += gain.realised;
    result.gain.wanted += gain.wanted;
    after_expert();
  }
  if (!is_codes) return result;
  result.bias = result.bias.to(weight.bias.scalar_type());
  if (!result.bias.isfinite().all().item<bool>()) {
    throw CheckpointError("export: " + weight.name +
                          "_bias corrected for the adapter has a value that is not finite; " +
                          "expected finite numbers; the adapter is damaged or diverged, or the calibration data are");
  }
  return result;
}

/// Every digit of a number.
std::string exactly(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string full_key(const CalibratedRounding& options) {
  const RoundingSettings& settings = options.settings;
  std::string key = (options.grid == RoundedTo::kMxfp4 ? "2 mxfp4 " : "2 bf16 ") + options.key + " kappa " +
                    exactly(settings.kappa) + " overshoots";
  for (const double each : settings.overshoots) key += " " + exactly(each);
  return key + " sweeps " + std::to_string(settings.max_sweeps) + " settled " + exactly(settings.settled) + " pooled " +
         exactly(kPooledTokens) + " damping " + exactly(kRoundingDamping);
}

std::filesystem::path file_of(const CalibratedRounding& options, std::int64_t layer) {
  return options.work / ("layer-" + std::to_string(layer) + ".safetensors");
}

void write_layer(const std::filesystem::path& path, const std::string& key,
                 const std::vector<std::pair<std::string, Rounded>>& weights) {
  std::vector<TensorInfo> infos;
  std::map<std::string, std::string> metadata = {{"key", key}};
  // Larger elements first, so that all lie aligned.
  for (const auto& [name, rounded] : weights) {
    if (rounded.bias.defined()) {
      infos.push_back({name + kBias, rounded.bias.scalar_type() == at::kFloat ? DType::kF32 : DType::kBF16,
                       rounded.bias.sizes().vec()});
    }
    metadata[name + ".realised"] = exactly(rounded.gain.realised);
    metadata[name + ".wanted"] = exactly(rounded.gain.wanted);
  }
  for (const auto& [name, rounded] : weights) {
    infos.push_back({name + kRounded, DType::kU8, rounded.values.sizes().vec()});
  }
  SafetensorsWriter writer(path, infos, metadata);
  const ByteSink sink = [&](std::span<const std::byte> bytes) { writer.write(bytes); };
  for (const auto& each : weights)
    if (each.second.bias.defined()) write_tensor(each.second.bias, sink);
  for (const auto& each : weights) write_tensor(each.second.values, sink);
  writer.finish();
}

/// The file of a layer, if it is one of this key that holds what `weights` need.
std::shared_ptr<const SafetensorsFile> finished(const std::filesystem::path& path, const std::string& key,
                                                const std::vector<Weight>& weights) {
  if (!std::filesystem::exists(path)) return nullptr;
  std::shared_ptr<const SafetensorsFile> file;
  try {
    file = SafetensorsFile::open(path);
  } catch (const CheckpointError&) {
    return nullptr;  // cut short by a crash of the machine: the layer is done again
  }
  const auto found = file->metadata().find("key");
  if (found == file->metadata().end() || found->second != key) return nullptr;
  for (const Weight& weight : weights) {
    const TensorInfo *rounded = file->find(weight.name + kRounded), *bias = file->find(weight.name + kBias);
    if (rounded == nullptr || rounded->shape != weight.rounded_shape()) return nullptr;
    if (weight.grid == RoundedTo::kMxfp4 && (bias == nullptr || bias->shape != weight.bias.sizes().vec()))
      return nullptr;
  }
  return file;
}

double number(const SafetensorsFile& file, const std::string& name) {
  const auto found = file.metadata().find(name);
  return found == file.metadata().end() ? 0.0 : std::strtod(found->second.c_str(), nullptr);
}

/// Work of the parts of a run, in units of a float32 operation: only to tell the time that is left.
struct Work {
  std::int64_t forward = 0, moments = 0, expert_gate_up = 0, expert_down = 0;

  Work(const ModelConfig& config, std::int64_t num_tokens, const CalibratedRounding& options) {
    constexpr std::int64_t kBFloat16Gain = 4;  // products of the forward pass are that much faster
    const auto hidden = config.hidden_size, inner = config.intermediate_size;
    const auto attention = 2 * hidden * config.head_dim * (config.num_attention_heads + config.num_key_value_heads);
    forward = 2 * num_tokens * (attention + 3 * hidden * inner * config.num_experts_per_tok) / kBFloat16Gain;
    moments = num_tokens * config.num_experts_per_tok * (hidden * hidden + inner * inner);
    const auto targets = options.grid == RoundedTo::kMxfp4 ? std::ssize(options.settings.overshoots) : 1;
    const auto products = 2 * targets;
    expert_gate_up = products * 2 * inner * hidden * hidden + hidden * hidden * hidden;
    expert_down = products * hidden * inner * inner + inner * inner * inner;
  }
  [[nodiscard]] std::int64_t of(const Weight& weight) const {
    return weight.name.ends_with("down_proj") ? expert_down : expert_gate_up;
  }
};

}  // namespace

RoundedLayers round_calibrated(const Checkpoint& base, const Transformer& transformer,
                               std::span<const TokenRows> batches, const CalibratedRounding& options,
                               const std::function<void(std::int64_t, std::int64_t)>& progress) {
  at::NoGradGuard no_grad;
  const ModelConfig& config = base.config();
  const std::string key = full_key(options);
  std::filesystem::create_directories(options.work);
  RoundedLayers result;
  std::vector<std::vector<Weight>> weights;
  std::int64_t num_layers = 0;  // up to the last that is still to be done
  for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
    weights.push_back(weights_of(base, transformer.layers()[static_cast<std::size_t>(n)], n, options.grid));
    if (weights.back().empty()) continue;
    if (finished(file_of(options, n), key, weights.back()) == nullptr) num_layers = n + 1;
  }

  std::optional<CalibrationPass> pass;
  if (num_layers > 0) {
    pass.emplace(transformer, batches);
    base.release("model.embed_tokens.weight");  // not read again
  }
  const auto num_tokens = pass ? pass->num_tokens() : 0;
  const Work work(config, num_tokens, options);
  std::int64_t done = 0, total = num_layers * work.forward;
  const auto advance = [&](std::int64_t by) {
    done += by;
    if (progress) progress(done, total);
  };
  for (std::int64_t n = 0; n < num_layers; ++n) {
    const auto& each = weights[static_cast<std::size_t>(n)];
    if (each.empty() || finished(file_of(options, n), key, each) != nullptr) continue;
    total += work.moments;
    for (const Weight& weight : each) total += weight.base.num_experts() * work.of(weight);
  }

  for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
    const auto& each = weights[static_cast<std::size_t>(n)];
    const std::filesystem::path path = file_of(options, n);
    std::shared_ptr<const SafetensorsFile> file;
    if (!each.empty()) file = finished(path, key, each);
    if (file != nullptr) ++result.layers_taken;
    if (n < num_layers) {
      const bool is_due = !each.empty() && file == nullptr;
      std::optional<MomentSums> gate_up, down;
      for (const Weight& weight : each) {
        if (!is_due) break;
        (weight.name.ends_with("down_proj") ? down : gate_up)
            .emplace(config.num_local_experts, weight.base.in_features());
      }
      const auto share = work.forward + (is_due ? work.moments : 0);
      pass->run_layer(gate_up ? &*gate_up : nullptr, down ? &*down : nullptr, [&](std::int64_t tokens) {
        advance(static_cast<std::int64_t>(static_cast<double>(share) * static_cast<double>(tokens) /
                                          static_cast<double>(num_tokens)));
      });
      if (is_due) {
        std::vector<std::pair<std::string, Rounded>> rounded;
        for (const Weight& weight : each) {
          std::optional<MomentSums>& moments = weight.name.ends_with("down_proj") ? down : gate_up;
          rounded.emplace_back(weight.name,
                               round_weight(weight, *moments, options.settings, [&] { advance(work.of(weight)); }));
          moments.reset();
        }
        write_layer(path, key, rounded);
        file = SafetensorsFile::open(path);
      }
    }
    for (const Weight& weight : each) {
      at::Tensor values = wrap(file, *file->find(weight.name + kRounded));
      if (weight.grid == RoundedTo::kMxfp4) {
        result.replacements.experts[weight.name] = {std::move(values), weight.base.packed.scales};
        result.replacements.tensors[weight.name + kBias] = wrap(file, *file->find(weight.name + kBias));
      } else {
        result.replacements.upper[weight.name] = std::move(values);
      }
      RoundingGain& gain = weight.name.ends_with("down_proj") ? result.down : result.gate_up;
      gain.realised += number(*file, weight.name + ".realised");
      gain.wanted += number(*file, weight.name + ".wanted");
    }
  }
  return result;
}

}  // namespace ossature
