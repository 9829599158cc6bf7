// A model's configuration as the key-values of a GGUF file of the architecture "gpt-oss" (llama.cpp,
// conversion/gpt_oss.py and src/models/openai-moe.cpp).
#pragma once

#include "model/checkpoint/config.h"
#include "model/files/gguf.h"

namespace ossature {

inline constexpr std::string_view kGgufArchitecture = "gpt-oss";

/// The keys "gpt-oss.*". A GGUF file has no word for some of a configuration: llama.cpp takes every second layer, from
/// the first, for a sliding one and clamps SwiGLU at 7, and it always rounds YaRN's bounds to whole numbers. So a
/// configuration that differs from the first two is refused with a CheckpointError; `rope_scaling.truncate: true` is
/// noted in a key of our own, which llama.cpp passes over.
[[nodiscard]] GgufKeyValues gguf_config(const ModelConfig& config);

/// The configuration of `file`. What a GGUF file does not say is as the published gpt-oss have it. Throws
/// CheckpointError if it is of another architecture, one of several files of a model, no model at all, or says
/// something absurd.
[[nodiscard]] ModelConfig read_gguf_config(const GgufFile& file);

}  // namespace ossature
