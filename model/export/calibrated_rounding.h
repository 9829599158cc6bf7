// Experts of base + adapter rounded to MXFP4 or bfloat16 layer by layer for the inputs that calibration data give them,
// each layer's result in a file of its own, so that a run which was stopped goes on where it was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "model/checkpoint/checkpoint.h"
#include "model/export/export.h"
#include "model/export/weight_rounding.h"
#include "model/network/backpropagation.h"
#include "model/network/transformer.h"

namespace ossature {

/// What the rounded experts are stored in.
enum class RoundedTo { kMxfp4, kBFloat16 };

struct CalibratedRounding {
  RoundedTo grid = RoundedTo::kMxfp4;
  /// Files of finished layers: made if absent. A layer is taken from there if its file is complete and has this key.
  std::filesystem::path work;
  /// Tells results apart: a digest of base, adapters and calibration data. The settings below are added to it.
  std::string key;
  RoundingSettings settings;
};

struct RoundedLayers {
  Replacements replacements;  // views of the files in `work`
  RoundingGain gate_up, down;
  std::int64_t layers_taken = 0;  // that were complete already
};

/// Rounds the experts' weights that carry a pair in `transformer` (base on the CPU with the adapter attached): to
/// codes, those that are MXFP4 in `base`, whose biases are corrected too; to bfloat16, those that are not float32 in
/// it, each value to one of the two next to it. `progress`, when given, hears work done and in all; it may throw to
/// stop: the layers that are complete stay. Throws CheckpointError where the adapter gives a value that is not finite,
/// std::system_error when the disk refuses.
[[nodiscard]] RoundedLayers round_calibrated(const Checkpoint& base, const Transformer& transformer,
                                             std::span<const TokenRows> batches, const CalibratedRounding& options,
                                             const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
