// Writes the *.safetensors files of a checkpoint, tensor by tensor: at no time is more than a piece of one tensor in
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/files/safetensors.h"

namespace ossature {

/// Takes the bytes of a tensor, in order, in pieces of any size.
using ByteSink = std::function<void(std::span<const std::byte>)>;

/// A tensor to be written, and who makes its bytes when its turn comes.
struct PlannedTensor {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<std::int64_t> shape;
  std::function<void(const ByteSink&)> write;

  [[nodiscard]] std::int64_t num_bytes() const;
};

/// Gives the bytes of a CPU tensor of any strides to `sink`.
void write_tensor(const at::Tensor& tensor, const ByteSink& sink);

/// The largest shard that the hub's own files of gpt-oss have.
inline constexpr std::int64_t kMaxShardBytes = 4'800'000'000;

/// Writes `tensors` into `dir`, in the order given: as model.safetensors if they fit into `max_shard_bytes`, else as
/// shards named model-00000-of-0000N.safetensors (N is the number of the last, as on the hub) with
/// model.safetensors.index.json. `progress`, when given, hears the bytes written and the bytes in all. Throws
/// std::system_error when the disk refuses.
void write_checkpoint_files(const std::filesystem::path& dir, const std::vector<PlannedTensor>& tensors,
                            std::int64_t max_shard_bytes = kMaxShardBytes,
                            const std::function<void(std::int64_t, std::int64_t)>& progress = {});

/// Writes `text` into the new file `path`. Throws std::system_error when the disk refuses.
void write_text_file(const std::filesystem::path& path, const std::string& text);

/// The same for a path that may be taken: what is there is replaced whole, or not at all.
void replace_text_file(const std::filesystem::path& path, const std::string& text);

}  // namespace ossature
