#include "model/checkpoint/checkpoint_writer.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <functional>
#include <numeric>
#include <system_error>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace ossature {
namespace {

std::string shard_name(std::size_t shard, std::size_t num_shards) {
  char text[64];
  std::snprintf(text, sizeof text, "model-%05zu-of-%05zu.safetensors", shard, num_shards - 1);
  return text;
}

/// Index of the first tensor of each shard, and the number of tensors at the end.
std::vector<std::size_t> shard_limits(const std::vector<PlannedTensor>& tensors, std::int64_t max_shard_bytes) {
  std::vector<std::size_t> limits{0};
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (bytes > 0 && bytes + tensors[i].num_bytes() > max_shard_bytes) {
      limits.push_back(i);
      bytes = 0;
    }
    bytes += tensors[i].num_bytes();
  }
  limits.push_back(tensors.size());
  return limits;
}

}  // namespace

std::int64_t PlannedTensor::num_bytes() const {
  return std::accumulate(shape.begin(), shape.end(), static_cast<std::int64_t>(element_size(dtype)),
                         std::multiplies<>());
}

void write_tensor(const at::Tensor& tensor, const ByteSink& sink) {
  const at::Tensor plain = tensor.contiguous();
  sink({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
}

void write_checkpoint_files(const std::filesystem::path& dir, const std::vector<PlannedTensor>& tensors,
                            std::int64_t max_shard_bytes,
                            const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const auto limits = shard_limits(tensors, max_shard_bytes);
  const std::size_t num_shards = limits.size() - 1;
  std::int64_t total = 0, written = 0;
  for (const PlannedTensor& tensor : tensors) total += tensor.num_bytes();
  nlohmann::json weight_map = nlohmann::json::object();
  for (std::size_t shard = 0; shard < num_shards; ++shard) {
    const std::string name = num_shards == 1 ? "model.safetensors" : shard_name(shard, num_shards);
    std::vector<TensorInfo> infos;
    for (std::size_t i = limits[shard]; i < limits[shard + 1]; ++i) {
      infos.push_back({tensors[i].name, tensors[i].dtype, tensors[i].shape});
      weight_map[tensors[i].name] = name;
    }
    SafetensorsWriter writer(dir / name, infos);
    for (std::size_t i = limits[shard]; i < limits[shard + 1]; ++i) {
      tensors[i].write([&](std::span<const std::byte> bytes) {
        writer.write(bytes);
        written += static_cast<std::int64_t>(bytes.size());
      });
      if (progress) progress(written, total);
    }
    writer.finish();
  }
  if (num_shards > 1) {
    const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    write_text_file(dir / "model.safetensors.index.json", index.dump(2) + "\n");
  }
}

void write_text_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text << std::flush;
  if (!out) throw std::system_error(errno, std::generic_category(), path.string());
}

void replace_text_file(const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path partial = path.string() + ".partial";
  try {
    write_text_file(partial, text);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw;
  }
  std::filesystem::rename(partial, path);
}

}  // namespace ossature
