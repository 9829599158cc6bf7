// A checkpoint with random weights: the start of full training, and a stand-in of the real shapes for tests and
// measurements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "model/checkpoint/checkpoint_writer.h"
#include "model/checkpoint/config.h"
#include "model/export/export.h"

namespace ossature {

/// Standard deviation of random weights: initializer_range of gpt-oss's config.json.
inline constexpr double kInitializerRange = 0.02;

/// Writes a new directory `out` in transformers' layout: matrices normal(0, kInitializerRange), norms 1, biases and
/// sinks 0. MXFP4 experts, codes and scales, are distributed as encoding such a normal distribution gives. Equal seeds
/// give equal bytes on any number of threads, and a tensor is the same whatever other tensors the model has: a cut to
/// fewer layers has the first layers of the whole. Takes a few MiB of memory, whatever the size. Tokenizer files of
/// `tokenizer_dir` are copied. `progress`, when given, hears the bytes written and the bytes in all.
/// Throws CheckpointError if `config` is invalid, `out` exists and is not empty or `tokenizer_dir` has no
/// tokenizer.json, std::system_error when the disk refuses; then nothing is left behind.
void init_checkpoint(const ModelConfig& config, std::uint64_t seed, ExpertStorage experts,
                     const std::optional<std::filesystem::path>& tokenizer_dir, const std::filesystem::path& out,
                     std::int64_t max_shard_bytes = kMaxShardBytes,
                     const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
