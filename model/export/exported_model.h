// What an export to MXFP4 computes, without writing it.
#pragma once

#include <ATen/core/ScalarType.h>

#include "model/adapter/merge.h"
#include "model/checkpoint/checkpoint.h"
#include "model/export/export.h"
#include "model/network/transformer.h"

namespace ossature {

/// The network of the checkpoint that export_checkpoint writes with experts in MXFP4, tensor for tensor, on the CPU.
/// What is neither merged nor replaced is `base`'s own, not copied. `dtype` as the Transformer's. Throws
/// CheckpointError where a merged value is not finite.
[[nodiscard]] Transformer exported_transformer(const Checkpoint& base, const Merger& merger,
                                               const Replacements& replacements, at::ScalarType dtype);

}  // namespace ossature
