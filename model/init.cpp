#include "model/init.h"

#include <array>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include "model/companions.h"
#include "model/staging_directory.h"

namespace ossature {
namespace {

/// Values drawn at once: bounds the memory.
constexpr std::int64_t kChunk = 1 << 22;

/// Scale byte of random experts: 2^-7 puts the largest of 32 values of a normal(0, 0.02) near the top of the grid.
constexpr std::uint8_t kScale = 120;

std::uint64_t mix(std::uint64_t z) {  // the finalizer of SplitMix64
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::uint64_t stream_of(std::uint64_t seed, const std::string& name) {
  std::uint64_t state = mix(seed);
  for (const char c : name) state = mix(state ^ static_cast<unsigned char>(c));
  return state;
}

std::int64_t numel(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const auto size : shape) count *= size;
  return count;
}

/// normal(0, kInitializerRange) in bfloat16.
void write_normal(std::uint64_t stream, std::int64_t count, const ByteSink& sink) {
  for (std::int64_t first = 0; first < count; first += kChunk) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(mix(stream + static_cast<std::uint64_t>(first)));
    const at::Tensor values =
        at::empty({std::min(kChunk, count - first)}, at::kFloat).normal_(0.0, kInitializerRange, generator);
    write_tensor(values.to(at::kBFloat16), sink);
  }
}

void write_constant(double value, std::int64_t count, const ByteSink& sink) {
  write_tensor(at::full({count}, value, at::kBFloat16), sink);
}

/// A random byte's code: as frequent as rounding a normal(0, kInitializerRange) at kScale makes it.
std::array<std::uint8_t, 256> code_table() {
  constexpr std::array<double, 7> kMidpoints = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0};
  const double sigma = kInitializerRange / std::ldexp(1.0, kScale - 127);
  std::array<std::uint8_t, 256> table{};
  for (std::size_t i = 0; i < 128; ++i) {
    const double quantile = (static_cast<double>(i) + 0.5) / 128.0;
    std::uint8_t code = 0;
    while (code < 7 && std::erf(kMidpoints[code] / (sigma * std::sqrt(2.0))) < quantile) ++code;
    table[i] = code;
    table[i + 128] = static_cast<std::uint8_t>(code | 8);
  }
  return table;
}

void write_codes(std::uint64_t stream, std::int64_t num_bytes, const ByteSink& sink) {
  static const std::array<std::uint8_t, 256> kTable = code_table();
  std::vector<std::uint8_t> bytes;
  for (std::int64_t first = 0; first < num_bytes; first += kChunk) {
    const auto count = std::min(kChunk, num_bytes - first);
    bytes.resize(static_cast<std::size_t>((count + 3) / 4 * 4));
    at::parallel_for(0, (count + 3) / 4, 4096, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) {  // 8 random bytes: 8 codes, 4 packed bytes
        std::uint64_t random = mix(stream + static_cast<std::uint64_t>(first / 4 + i));
        for (std::int64_t j = 0; j < 4; ++j, random >>= 16) {
          bytes[static_cast<std::size_t>(4 * i + j)] =
              static_cast<std::uint8_t>(kTable[random & 255] | (kTable[(random >> 8) & 255] << 4));
        }
      }
    });
    sink(std::as_bytes(std::span(bytes).first(static_cast<std::size_t>(count))));
  }
}

void write_scales(std::int64_t count, const ByteSink& sink) {
  write_tensor(at::full({count}, kScale, at::kByte), sink);
}

std::vector<PlannedTensor> plan(const ModelConfig& config, std::uint64_t seed, ExpertStorage experts) {
  std::vector<PlannedTensor> tensors;
  for (const TensorShape& tensor : tensor_shapes(config)) {
    const std::uint64_t stream = stream_of(seed, tensor.name);
    const auto count = numel(tensor.shape);
    const auto normal = [=](const ByteSink& sink) { write_normal(stream, count, sink); };
    if (tensor.is_expert_weight) {
      std::vector<std::int64_t> shape = tensor.shape;
      if (experts == ExpertStorage::kBf16) {
        std::swap(shape[1], shape[2]);
        tensors.push_back({tensor.name, DType::kBF16, shape, normal});
        continue;
      }
      shape[2] /= kMxfp4BlockSize;
      tensors.push_back({tensor.name + "_scales", DType::kU8, shape,
                         [=](const ByteSink& sink) { write_scales(count / kMxfp4BlockSize, sink); }});
      shape.push_back(kMxfp4BlockBytes);
      tensors.insert(tensors.end() - 1, {tensor.name + "_blocks", DType::kU8, shape,
                                         [=](const ByteSink& sink) { write_codes(stream, count / 2, sink); }});
      continue;
    }
    const bool is_norm = tensor.name.ends_with("norm.weight");
    if (tensor.shape.size() == 1 || tensor.name.ends_with("_bias")) {
      tensors.push_back({tensor.name, DType::kBF16, tensor.shape,
                         [=](const ByteSink& sink) { write_constant(is_norm ? 1.0 : 0.0, count, sink); }});
    } else {
      tensors.push_back({tensor.name, DType::kBF16, tensor.shape, normal});
    }
  }
  return tensors;
}

}  // namespace

void init_checkpoint(const ModelConfig& config, std::uint64_t seed, ExpertStorage experts,
                     const std::optional<std::filesystem::path>& tokenizer_dir, const std::filesystem::path& out,
                     std::int64_t max_shard_bytes) {
  validate(config, "init");
  StagingDirectory staging(out);
  write_checkpoint_files(staging.path(), plan(config, seed, experts), max_shard_bytes);
  write_text_file(staging.path() / "config.json", hf_config_json(config, experts == ExpertStorage::kMxfp4));
  const nlohmann::json generation = {{"eos_token_id", config.eos_token_id}, {"pad_token_id", config.pad_token_id}};
  write_text_file(staging.path() / "generation_config.json", generation.dump(2) + "\n");
  if (tokenizer_dir) copy_companion_files(*tokenizer_dir, staging.path());
  staging.commit();
}

}  // namespace ossature
