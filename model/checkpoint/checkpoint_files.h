// Which safetensors files a checkpoint directory consists of.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "model/files/safetensors.h"

namespace ossature {

/// Opens the shards that model.safetensors.index.json names, or else model.safetensors, or else every *.safetensors in
/// `dir` (OpenAI's shards have no index), in the order of their names. Throws CheckpointError if there is none, the
/// index is broken, names a file that is not beside it, or places a tensor in a shard that has not got it.
[[nodiscard]] std::vector<std::shared_ptr<const SafetensorsFile>> open_checkpoint_files(
    const std::filesystem::path& dir);

}  // namespace ossature
