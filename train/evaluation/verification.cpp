#include "train/evaluation/verification.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <ATen/ATen.h>

#include "data/batches/sequential_reader.h"
#include "data/token_file/vocabulary.h"
#include "train/evaluation/evaluate.h"
#include "train/failure/errors.h"

namespace ossature {
namespace {

/// Tokens that go through the layers together: 3 hidden states of each are held.
constexpr std::int64_t kGroupTokens = 65'536;

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor left = a.contiguous(), right = b.contiguous();
  return left.scalar_type() == right.scalar_type() && left.sizes() == right.sizes() &&
         std::memcmp(left.const_data_ptr(), right.const_data_ptr(), left.nbytes()) == 0;
}

bool same_values(const ExpertWeight& a, const ExpertWeight& b) {
  for (std::int64_t e = 0; e < a.num_experts(); ++e) {
    if (!at::equal(merge_expert(a, {}, e), merge_expert(b, {}, e))) return false;
  }
  return true;
}

bool is_zero(const LowRank& pair) {
  return pair.scale == 0.0 || !pair.a.any().item<bool>() || !pair.b.any().item<bool>();
}

enum class Change { kNone, kStorage, kValues };

Change change_of(const Checkpoint& base, const Checkpoint& exported, const TensorShape& tensor) {
  if (!tensor.is_expert_weight) {
    const at::Tensor from = base.tensor(tensor.name), to = exported.tensor(tensor.name);
    if (from.scalar_type() != to.scalar_type()) {
      throw CheckpointError(exported.dir().string() + ": " + tensor.name + " is " +
                            (to.scalar_type() == at::kFloat ? "float32" : "bfloat16") +
                            "; expected the dtype that it has in " + base.dir().string() +
                            "; is this the export of another base?");
    }
    return same_bytes(from, to) ? Change::kNone : Change::kValues;
  }
  const ExpertWeight from = base.expert_weight(tensor.name), to = exported.expert_weight(tensor.name);
  if (from.is_packed() && to.is_packed()) {
    const bool same =
        same_bytes(from.packed.blocks, to.packed.blocks) && same_bytes(from.packed.scales, to.packed.scales);
    return same ? Change::kNone : Change::kValues;
  }
  if (!same_values(from, to)) return Change::kValues;
  return from.is_packed() == to.is_packed() ? Change::kNone : Change::kStorage;
}

void check_same_shape(const Checkpoint& base, const Checkpoint& exported) {
  ModelConfig from = base.config(), to = exported.config();
  from.eos_token_id = to.eos_token_id;  // OpenAI's layout has none
  from.pad_token_id = to.pad_token_id;
  if (from == to) return;
  throw CheckpointError(exported.dir().string() + ": config.json tells of another model than that of " +
                        base.dir().string() + "; expected an export of this base");
}

/// Sets the figures that follow from sums over samples.
void summarize(const std::vector<ComparisonSums>& samples, const ComparisonSums& all, Verification& found) {
  found.samples = std::ssize(samples);
  found.learned_tokens = all.num_learned;
  found.loss_base = all.loss_base / all.weight;
  found.loss_adapter = all.loss_adapter / all.weight;
  found.loss_export = all.loss_export / all.weight;
  found.kl_adapter_base = all.kl_adapter_base / all.weight;
  found.kl_adapter_export = all.kl_adapter_export / all.weight;
  found.top1_agreement = all.top1_agreement / all.weight;
  if (found.kl_adapter_base > 0.0) found.effect_kept = 1.0 - found.kl_adapter_export / found.kl_adapter_base;

  // Jackknife (Efron and Stein, 1981): each sample left out once.
  const double gain = all.loss_base - all.loss_adapter, kept = all.loss_base - all.loss_export;
  const auto count = static_cast<double>(samples.size());
  double gain_variance = 0.0, retention_variance = 0.0;
  for (const ComparisonSums& sample : samples) {
    const double rest = all.weight - sample.weight;
    if (rest <= 0.0) return;  // a single sample: nothing is known of its error
    const double gain_left = gain - (sample.loss_base - sample.loss_adapter);
    const double kept_left = kept - (sample.loss_base - sample.loss_export);
    gain_variance += std::pow(gain_left / rest - gain / all.weight, 2);
    retention_variance += std::pow(kept_left / gain_left - kept / gain, 2);
  }
  const double factor = (count - 1.0) / count;
  if (gain / all.weight < 2.0 * std::sqrt(factor * gain_variance) || gain <= 0.0) return;
  found.retention = kept / gain;
  found.retention_error = std::sqrt(factor * retention_variance);
}

}  // namespace

void check_held_out(const std::shared_ptr<const TokenFileReader>& data, const Checkpoint& base) {
  check_vocabulary(*data, base.config().vocab_size, base.dir());
  SequentialReader reader(data, kGroupTokens);
  while (const std::optional<Batch> batch = reader.next()) {
    if (targets_of(batch->tokens, batch->loss_weights, batch->sample_offsets).rows.size(0) > 0) return;
  }
  throw DataError(data->path().string() +
                  ": no token is learned; expected held-out data with learned tokens, such as a validation file");
}

TensorComparison compare_tensors(const Checkpoint& base, const Merger& merger, const Checkpoint& exported) {
  check_same_shape(base, exported);
  TensorComparison found;
  for (const TensorShape& tensor : tensor_shapes(base.config())) {
    const Change change = change_of(base, exported, tensor);
    const LowRank pair = merger.pair(tensor.name);
    if (pair.defined() && !is_zero(pair)) {
      ++(change == Change::kValues ? found.merged : found.lost_to_rounding);
    } else if (change == Change::kValues && tensor.name.ends_with("_proj_bias") &&
               merger.pair(tensor.name.substr(0, tensor.name.size() - std::string("_bias").size())).defined()) {
      ++found.corrected_biases;
    } else if (change == Change::kValues) {
      found.others.push_back(tensor.name);
    } else {
      ++(change == Change::kNone ? found.identical : found.dense_experts);
    }
  }
  return found;
}

double Verification::least_effect() const {
  return std::min(kLeastEffect, min_retention);
}

bool Verification::predicts_otherwise() const {
  return effect_kept && *effect_kept < least_effect() && kl_adapter_export > kSamePredictions;
}

bool Verification::passed() const {
  if (retention) return *retention >= min_retention && !predicts_otherwise();
  if (effect_kept) return *effect_kept >= min_retention || kl_adapter_export <= kSamePredictions;
  return kl_adapter_export <= kSamePredictions;
}

std::string Verification::advice(ExpertStorage experts) const {
  char figures[160];
  if (retention && *retention >= min_retention) {
    std::snprintf(
        figures, sizeof figures,
        "keeps %.1f %% of the loss that the adapter gained, but %.1f %% of what it changed in the predictions",
        100.0 * *retention, 100.0 * effect_kept.value_or(0.0));
    return std::string(figures) + " (KL divergence); expected at least " +
           std::to_string(std::lround(100.0 * least_effect())) +
           " %: is this the export of this base and adapter, with this weight?";
  }
  if (retention) {
    std::snprintf(figures, sizeof figures,
                  "keeps %.1f %% of the loss that the adapter gained; expected at least %.1f %%", 100.0 * *retention,
                  100.0 * min_retention);
  } else if (effect_kept) {
    std::snprintf(
        figures, sizeof figures,
        "keeps %.1f %% of what the adapter changed in the predictions (KL divergence); expected at least %.1f %%",
        100.0 * *effect_kept, 100.0 * min_retention);
  } else {
    std::snprintf(figures, sizeof figures,
                  "predicts otherwise than the base (KL divergence %.4f nats); expected the same", kl_adapter_export);
  }
  return std::string(figures) +
         (experts == ExpertStorage::kBf16
              ? "; nothing was rounded to 4 bits, so this is not the export of this base and adapter, unless little is "
                "missing, which --rounding calibrated would keep"
              : "; export with --rounding calibrated --calibration FILE.h5, which keeps more in as few bytes, or with "
                "--experts mixed or bf16, which keep all and take more");
}

Inspection Verification::report() const {
  Inspection result;
  result.kind = "verification";
  auto& fields = result.fields;
  fields = {{"samples", samples},
            {"learned_tokens", learned_tokens},
            {"loss_base", loss_base},
            {"loss_adapter", loss_adapter},
            {"loss_export", loss_export}};
  if (retention) {
    fields.emplace_back("retention", *retention);
    fields.emplace_back("retention_standard_error", retention_error);
  }
  fields.emplace_back("kl_adapter_base", kl_adapter_base);
  fields.emplace_back("kl_adapter_export", kl_adapter_export);
  if (effect_kept) fields.emplace_back("effect_kept", *effect_kept);
  fields.emplace_back("top1_agreement", top1_agreement);
  fields.emplace_back("min_retention", min_retention);
  fields.emplace_back("passed", passed());
  fields.emplace_back("tensors_identical", tensors.identical);
  fields.emplace_back("tensors_merged", tensors.merged);
  fields.emplace_back("tensors_lost_to_rounding", tensors.lost_to_rounding);
  fields.emplace_back("expert_biases_corrected", tensors.corrected_biases);
  fields.emplace_back("experts_now_dense", tensors.dense_experts);
  fields.emplace_back("tensors_changed_otherwise", tensors.others);
  if (layers.empty()) return result;
  Inspection::Table table{"layers", {"layer", "wanted", "gain", "missed"}, {}};
  for (std::size_t n = 0; n < layers.size(); ++n) {
    const LayerEffect& layer = layers[n];
    const double wanted = std::max(layer.wanted, 1e-300);
    table.rows.push_back({static_cast<std::int64_t>(n), std::sqrt(layer.wanted), layer.along / wanted,
                          std::sqrt(layer.missed / wanted)});
  }
  result.tables.push_back(std::move(table));
  return result;
}

Verification verify_export(const Checkpoint& base, const Merger& merger, const Checkpoint& exported,
                           const std::shared_ptr<const TokenFileReader>& data, const VerificationOptions& options,
                           const std::function<void(std::int64_t, std::int64_t)>& progress) {
  check_held_out(data, base);
  Verification found;
  found.min_retention = options.min_retention;
  found.tensors = compare_tensors(base, merger, exported);
  const Transformer plain(base, options.dtype), written(exported, options.dtype);
  Transformer adapted(base, options.dtype);
  merger.attach(adapted);
  ModelComparison comparison(plain, adapted, written, options.by_layer);

  const std::int64_t parts = base.config().num_hidden_layers + 1;
  const std::int64_t groups = (data->num_tokens() + kGroupTokens - 1) / kGroupTokens;
  std::int64_t group = 0;
  SequentialReader reader(data, std::min(options.max_tokens, kGroupTokens));
  std::optional<Batch> next = reader.next();
  while (next) {
    std::vector<Batch> batches;
    std::int64_t tokens = 0;
    do {
      tokens += std::ssize(next->tokens);
      batches.push_back(std::move(*next));
      next = reader.next();
    } while (next && tokens + std::ssize(next->tokens) <= kGroupTokens);
    std::vector<TokenRows> rows;
    for (const Batch& batch : batches) rows.push_back(rows_of(batch));
    comparison.add(rows, [&](std::int64_t done) {
      if (progress) progress(group * parts + done, std::max(groups, group + 1) * parts);
    });
    ++group;
  }
  const ComparisonSums all = comparison.total();
  for (const auto& [of, loss] : {std::pair{"the base", all.loss_base}, std::pair{"base + adapter", all.loss_adapter},
                                 std::pair{"the export", all.loss_export}}) {
    if (std::isfinite(loss)) continue;
    throw NonFiniteError(exported.dir().string() + ": the loss of " + of + " on " + data->path().string() +
                         " is not a finite number; expected one; a weight is damaged, or the adapter's is too large");
  }
  found.layers = comparison.layers();
  summarize(comparison.samples(), all, found);
  return found;
}

}  // namespace ossature
