// The tensors of a network by the names that a checkpoint has for them.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "model/network/transformer.h"

namespace ossature {

/// The member of `transformer` that holds the tensor of that name, transformers' (of expert weights: the dense
/// [E, O, I]). Throws std::logic_error if there is none.
[[nodiscard]] at::Tensor& tensor_of(Transformer& transformer, const std::string& name);

}  // namespace ossature
