// Writes base + adapter as a checkpoint that inference engines load. Tensors that no adapter touches are copied byte
// for byte; the rest is merged in float32, one tensor (of experts: one expert) at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "model/checkpoint.h"
#include "model/checkpoint_writer.h"
#include "model/lora.h"

namespace ossature {

enum class ExportFormat { kHf, kOpenAi };
enum class ExpertStorage { kMxfp4, kBf16 };

struct ExportOptions {
  ExportFormat format = ExportFormat::kHf;
  ExpertStorage experts = ExpertStorage::kMxfp4;  // MXFP4 by rounding merged values to nearest
  std::int64_t max_shard_bytes = kMaxShardBytes;
};

/// Writes into the new directory `out`: it appears under its name only when complete. config.json is written for the
/// format; tokenizer and chat template files of the base travel along. `adapter` may be null: then only the layout
/// changes. Throws CheckpointError if `out` exists and is not empty, or for OpenAI's format with bfloat16 experts
/// (which it has not got).
void export_checkpoint(const Checkpoint& base, const Lora* adapter, const ExportOptions& options,
                       const std::filesystem::path& out,
                       const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
