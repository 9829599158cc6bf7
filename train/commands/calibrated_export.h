// export --rounding calibrated: which data calibrate, what a result depends on, and the rounding itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/token_file.h"
#include "model/calibrated_rounding.h"
#include "model/merge.h"
#include "train/commands/adapter_options.h"

namespace ossature {

/// The token files that the adapters were trained on, of those that lie in a run folder and whose files are still
/// there.
[[nodiscard]] std::vector<std::filesystem::path> training_data(const std::vector<WeightedAdapter>& adapters);

/// Where the layers' results of an export to `out` lie until it is complete: a folder beside it.
[[nodiscard]] std::filesystem::path rounding_folder(const std::filesystem::path& out);

/// Rounds the experts of base + adapters for what `data` make of their inputs, with progress on stderr. An interrupted
/// run throws InterruptedError; the same call goes on from there.
[[nodiscard]] RoundedLayers round_experts(const Checkpoint& base, const Merger& merger,
                                          const std::vector<WeightedAdapter>& adapters,
                                          const std::vector<std::filesystem::path>& data, std::int64_t max_tokens,
                                          const std::filesystem::path& work);

/// "gain along the adapter 0.96 in gate_up_proj, 0.97 in down_proj": 1 is all of what it wants of the weights.
[[nodiscard]] std::string gain_text(const RoundedLayers& rounded);

}  // namespace ossature
