// An adapter, or the sum of several, as a GGUF file that llama.cpp applies to a base GGUF while it runs. Expert pairs
// too: its own converter (convert_lora_to_gguf.py) knows none of gpt-oss's, but its graph computes them
// (src/llama-graph.cpp, build_lora_mm_id).
#pragma once

#include <filesystem>

#include "model/adapter/merge.h"

namespace ossature {

/// Writes the new file `out`: A and B of each pair in float32, of experts with their number as the slowest dimension,
/// that of gate_up as two pairs that share A. llama.cpp scales a pair by adapter.lora.alpha / rank, alpha being one
/// number for all: rsLoRA's scale goes into it (alpha sqrt(r)); where pairs differ it is 1 and their scales go into B.
/// Throws CheckpointError if `out` exists or `merger` has no pair.
void write_gguf_adapter(const Merger& merger, const std::filesystem::path& out);

}  // namespace ossature
