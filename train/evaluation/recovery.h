// export --recover: what rounding left over is made up for by the experts' biases, which are stored in bfloat16. They
// are trained so that the export predicts what base + adapter does (distillation: Hinton et al., arXiv 1503.02531), and
// the result is kept if it does so better on samples that were not trained on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include <ATen/core/ScalarType.h>
#include <ATen/core/Tensor.h>

#include "data/batches/batch.h"
#include "model/adapter/merge.h"
#include "model/checkpoint/checkpoint.h"
#include "model/export/export.h"

namespace ossature {

/// The largest of AdamW: see the study in model/README.md.
inline constexpr double kRecoveryLearningRate = 1e-4;

struct RecoveryOptions {
  std::int64_t steps = 0;  // of one micro-batch each
  double learning_rate = kRecoveryLearningRate;
  at::ScalarType dtype = at::kBFloat16;
};

struct Recovery {
  std::map<std::string, at::Tensor> tensors;  // new biases by transformers' names, as stored; none if nothing helped
  std::int64_t steps = 0;                     // after which they were what they are
  /// KL(base + adapter || export) on the samples that were held out, nats a learned token, without and with them.
  double kl_before = 0.0, kl_after = 0.0;
};

/// Throws DataError if fewer than two samples of `data` have learned tokens.
void check_recovery_data(std::span<const Batch> data);

/// Trains the biases of the expert weights that `replacements` has, in the export of base + adapters that it makes.
/// `data` are samples of what the adapters were trained for; every eighth with a learned token is held out. What counts
/// are the biases as they are stored: the forward pass has them rounded, while the optimizer's own are float32, so that
/// steps below bfloat16's resolution add up. Holds 4 hidden_size bytes a token. `progress`, when given, hears work done
/// and in all; it may throw to stop. Throws DataError if fewer than two samples have learned tokens, NonFiniteError if
/// a gradient is not finite.
[[nodiscard]] Recovery recover(const Checkpoint& base, const Merger& merger, const Replacements& replacements,
                               std::span<const Batch> data, const RecoveryOptions& options,
                               const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
