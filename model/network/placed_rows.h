// A micro-batch where the layers take it: its tokens, and what all layers of a pass over it share.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/network/backpropagation.h"

namespace ossature {

struct PlacedRows {
  SequenceLayout layout;
  RopeTable rope;
  at::Tensor tokens;  // int64 [T], on the transformer's device, as is rope

  PlacedRows(const Transformer& transformer, const TokenRows& rows);
};

}  // namespace ossature
