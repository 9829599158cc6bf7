// Full training: every weight of the network as a float32 parameter. For small models and for making one from scratch.
#pragma once

#include <filesystem>
#include <memory>

#include "model/network/parameters.h"
#include "model/network/transformer.h"

namespace ossature {

/// Float32 copies of all weights of `checkpoint`, under its names (expert weights as [E, O, I]), put in the place of
/// `transformer`'s frozen ones. Weight decay applies to matrices, not to norms, biases and sinks. Throws
/// CheckpointError if the experts are MXFP4: those cannot follow a gradient.
[[nodiscard]] std::unique_ptr<ParameterSet> make_trainable(const Checkpoint& checkpoint, Transformer& transformer);

/// Writes the parameters as a checkpoint in transformers' bfloat16 layout, with the configuration and tokenizer files
/// of `checkpoint`. With `experts_on_grid` expert weights are rounded to the MXFP4 grid first, which bfloat16 holds
/// exactly.
void write_full_checkpoint(const ParameterSet& parameters, const Checkpoint& checkpoint, bool experts_on_grid,
                           const std::filesystem::path& dir);

}  // namespace ossature
