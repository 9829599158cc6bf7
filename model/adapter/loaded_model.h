// A checkpoint with its network and, perhaps, an adapter: what every command that runs a model begins with.
#pragma once

#include <filesystem>
#include <optional>

#include "model/adapter/lora.h"
#include "model/checkpoint/checkpoint.h"
#include "model/network/transformer.h"

namespace ossature {

struct LoadedModel {
  Checkpoint checkpoint;
  Transformer transformer;
  std::optional<Lora> adapter;  // attached to transformer
};

/// Opens the checkpoint `model` and attaches the adapter in `adapter`, if given. Throws CheckpointError as those do.
[[nodiscard]] LoadedModel load_model(const std::filesystem::path& model,
                                     const std::optional<std::filesystem::path>& adapter, at::ScalarType dtype,
                                     at::Device device = at::kCPU);

}  // namespace ossature
