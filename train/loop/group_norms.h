// Norms by group of what a run trains: all layers of a projection or of an expert weight are one group.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "model/adapter/lora.h"
#include "model/network/parameters.h"

namespace ossature {

using GroupNorms = std::map<std::string, double>;

/// "q_proj" of "model.layers.3.self_attn.q_proj.lora_A", "experts.gate_up_proj" of that expert weight, its bias and its
/// pair; "norms", "sinks", "embed_tokens" and "lm_head" are what full training has besides.
[[nodiscard]] std::string parameter_group(std::string_view name);

/// Euclidean norms of the gradients as they are accumulated, in float64 over each parameter: the same for any number of
/// threads. The squares add up to that of ParameterSet::gradient_norm().
[[nodiscard]] GroupNorms gradient_norms(const ParameterSet& parameters);

/// Frobenius norms of scale * B A, from products of A and of B with themselves: no delta is made. Layers and experts of
/// a group together.
[[nodiscard]] GroupNorms adapter_norms(const Lora& lora);

}  // namespace ossature
