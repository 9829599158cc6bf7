// export --rounding calibrated and --recover: which data calibrate, what a result depends on, the rounding itself, and
// the recovery after it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/token_file/token_file.h"
#include "model/adapter/merge.h"
#include "model/export/calibrated_rounding.h"
#include "train/commands/adapter_options.h"
#include "train/evaluation/recovery.h"

namespace ossature {

/// The token files that the adapters were trained on, of those that lie in a run folder and whose files are still
/// there.
[[nodiscard]] std::vector<std::filesystem::path> training_data(const std::vector<WeightedAdapter>& adapters);

/// Where the layers' results of an export to `out` lie until it is complete: a folder beside it.
[[nodiscard]] std::filesystem::path rounding_folder(const std::filesystem::path& out);

/// Removes what an export that was broken off has left in the rounding folder of `out`, which is complete now.
void remove_rounding_folder(const std::filesystem::path& out);

/// Rounds the experts of base + adapters to `grid` for what `data` make of their inputs, with progress on stderr. An
/// interrupted run throws InterruptedError; the same call goes on from there.
[[nodiscard]] RoundedLayers round_experts(const Checkpoint& base, const Merger& merger,
                                          const std::vector<WeightedAdapter>& adapters, RoundedTo grid,
                                          const std::vector<std::filesystem::path>& data, std::int64_t max_tokens,
                                          const std::filesystem::path& work);

/// Throws DataError, before anything is rounded, where `data` cannot serve recover_export().
void check_recovery_data(const std::vector<std::filesystem::path>& data, std::int64_t max_tokens);

/// Recovers what `rounded` left over, on the same data, with progress on stderr. An interrupted run throws
/// InterruptedError; the rounded layers stay in `work`.
[[nodiscard]] Recovery recover_export(const Checkpoint& base, const Merger& merger, const RoundedLayers& rounded,
                                      const std::vector<std::filesystem::path>& data, std::int64_t max_tokens,
                                      const RecoveryOptions& options, const std::filesystem::path& work);

/// "recovered: KL divergence from base + adapter 4.1e-04 nats a token before, 3.2e-04 after 50 steps (held-out samples
/// of the calibration data)", or that nothing was better.
[[nodiscard]] std::string recovery_text(const Recovery& recovery);

/// "gain along the adapter 0.96 in gate_up_proj, 0.97 in down_proj": 1 is all of what it wants of the weights.
[[nodiscard]] std::string gain_text(const RoundedLayers& rounded);

}  // namespace ossature
