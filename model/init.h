// A checkpoint with random weights: the start of full training, and a stand-in of the real shapes for tests and
// measurements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "model/checkpoint_writer.h"
#include "model/config.h"
#include "model/export.h"

namespace ossature {

/// Standard deviation of random weights: initializer_range of gpt-oss's config.json.
inline constexpr double kInitializerRange = 0.02;

/// Writes a new directory `out` in transformers' layout: matrices normal(0, kInitializerRange), norms 1, biases and
/// sinks 0. MXFP4 experts are drawn on the grid, with the frequencies that rounding such a normal distribution gives.
/// The same seed gives the same bytes. Tokenizer files of `tokenizer_dir` are copied. Throws CheckpointError if `out`
/// exists and is not empty.
void init_checkpoint(const ModelConfig& config, std::uint64_t seed, ExpertStorage experts,
                     const std::optional<std::filesystem::path>& tokenizer_dir, const std::filesystem::path& out,
                     std::int64_t max_shard_bytes = kMaxShardBytes);

}  // namespace ossature
