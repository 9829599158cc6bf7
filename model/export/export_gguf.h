// Writes base + adapters as one GGUF file, tensor for tensor and byte for byte as llama.cpp's own converter would
// (conversion/gpt_oss.py with --outtype bf16): experts in MXFP4 keep their bits in ggml's order, norms, biases, sinks
// and router are float32, other matrices are as the base has them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "model/checkpoint/checkpoint.h"
#include "model/export/export.h"

namespace ossature {

/// Writes the new file `out`, which appears under its name only when complete, or, if `out` has no ending ".gguf", a
/// new directory with model.gguf. The tokenizer and chat template of the base go into the file. In memory there is at
/// most a tensor that is no expert weight or an expert with its delta, and while it begins the tokenizer. Throws
/// CheckpointError if `out` exists, if `options` cannot be met, or if the configuration or the tokenizer has no words
/// in a GGUF file (gguf_config.h, gguf_tokenizer.h). Of `options`, format and max_shard_bytes are not looked at.
void export_gguf(const Checkpoint& base, const Merger& merger, const ExportOptions& options,
                 const std::filesystem::path& out,
                 const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
