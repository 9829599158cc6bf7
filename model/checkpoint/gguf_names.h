// llama.cpp's names of gpt-oss's tensors (llama.cpp, gguf-py/gguf/constants.py and conversion/gpt_oss.py). The rows of
// gate_up_proj, where gate and up take turns, lie in two tensors: gate's, the even ones, and up's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ossature {

/// llama.cpp's names of the tensor or expert weight `name` (transformers' "model.layers.0.self_attn.sinks",
/// "model.layers.0.mlp.experts.gate_up_proj"): one, or gate's and up's. Empty if a gpt-oss has no such tensor.
[[nodiscard]] std::vector<std::string> gguf_names(std::string_view name);

/// Whether llama.cpp's converter stores the tensor `name` (llama.cpp's) in float32 whatever it was stored in: norms,
/// biases, sinks and the router.
[[nodiscard]] bool gguf_is_always_f32(std::string_view name);

}  // namespace ossature
