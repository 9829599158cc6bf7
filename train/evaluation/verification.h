// What an export kept: structure and bytes against the base, and on held-out data its predictions against those of
// base + adapter.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/ScalarType.h>

#include "data/token_file/token_file.h"
#include "model/adapter/merge.h"
#include "model/checkpoint/checkpoint.h"
#include "model/network/comparison.h"
#include "train/reports/inspection.h"

namespace ossature {

/// The tensors of an export against those of its base, by transformers' names.
struct TensorComparison {
  std::int64_t identical = 0;         // the same bytes
  std::int64_t merged = 0;            // other values, where an adapter has a pair
  std::int64_t lost_to_rounding = 0;  // the same values although an adapter has a pair that is not zero
  std::int64_t dense_experts = 0;     // the same values, in bfloat16 where the base has MXFP4, or the reverse
  std::int64_t corrected_biases = 0;  // other values of an expert bias whose weight an adapter has a pair for: rounding
  std::vector<std::string> others;    // other values where no adapter has a pair
};

/// Reads both. Throws CheckpointError if the two are not of one shape, or if a tensor's dtype is not the base's
/// (experts may be MXFP4 or bfloat16 in either).
[[nodiscard]] TensorComparison compare_tensors(const Checkpoint& base, const Merger& merger,
                                               const Checkpoint& exported);

struct VerificationOptions {
  double min_retention = 0.9;
  bool by_layer = false;
  std::int64_t max_tokens = 4096;  // computed at once
  at::ScalarType dtype = at::kBFloat16;
};

/// Figures are means over the learned tokens of the data, weighted by loss weight.
struct Verification {
  TensorComparison tensors;
  std::int64_t samples = 0, learned_tokens = 0;
  double loss_base = 0.0, loss_adapter = 0.0, loss_export = 0.0;
  double kl_adapter_base = 0.0, kl_adapter_export = 0.0;  // nats
  double top1_agreement = 0.0;
  /// (loss_base - loss_export) / (loss_base - loss_adapter); none where the adapter's gain is not at least twice its
  /// standard error.
  std::optional<double> retention;
  double retention_error = 0.0;  // standard error: jackknife over samples
  /// 1 - KL(adapter || export) / KL(adapter || base); none if the adapter changes nothing.
  std::optional<double> effect_kept;
  std::vector<LayerEffect> layers;
  double min_retention = 0.0;

  /// Retention, or where there is none the kept effect, is at least the bound. A loss that is low does not do: the kept
  /// effect must be kLeastEffect too, since an adapter that is not this one may lower it as well. Where there is no
  /// adapter: the export predicts what the base does, to kSamePredictions.
  [[nodiscard]] bool passed() const;
  /// Why not, and which option would help. `experts` of the export.
  [[nodiscard]] std::string advice(ExpertStorage experts) const;
  [[nodiscard]] Inspection report() const;

 private:
  /// The effect that must be kept beside the gain.
  [[nodiscard]] double least_effect() const;
  [[nodiscard]] bool predicts_otherwise() const;
};

/// Less of an adapter's effect on the predictions has no export that keeps its gain: calibrated rounding of a delta of
/// 0.3 % had at least 0.7 (the study in model/README.md).
inline constexpr double kLeastEffect = 0.5;
/// KL divergence in nats that the rounding of bfloat16 arithmetic explains.
inline constexpr double kSamePredictions = 1e-3;

/// Throws DataError if `data` has no learned token or another vocabulary than `base`.
void check_held_out(const std::shared_ptr<const TokenFileReader>& data, const Checkpoint& base);

/// Throws CheckpointError as compare_tensors does, DataError as check_held_out does, NonFiniteError if a loss is not
/// finite. `progress`, when given, hears parts done and parts in all.
[[nodiscard]] Verification verify_export(const Checkpoint& base, const Merger& merger, const Checkpoint& exported,
                                         const std::shared_ptr<const TokenFileReader>& data,
                                         const VerificationOptions& options,
                                         const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
