#include "model/export/init.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/companions.h"
#include "model/export/random_weights.h"
#include "model/files/staging_directory.h"

namespace ossature {
namespace {

constexpr std::uint16_t kOne = 0x3f80;  // bfloat16
constexpr std::int64_t kPieceElements = 4 << 20;

/// Makes `count` elements piece by piece: `fill` gets the index of a piece's first element and the room for its values.
template <typename T, typename Fill>
void write_pieces(std::int64_t count, const ByteSink& sink, const Fill& fill) {
  std::vector<T> piece(static_cast<std::size_t>(std::min(count, kPieceElements)));
  for (std::int64_t first = 0; first < count; first += kPieceElements) {
    const std::span<T> values(piece.data(), static_cast<std::size_t>(std::min(count - first, kPieceElements)));
    fill(first, values);
    sink(std::as_bytes(values));
  }
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

PlannedTensor constant(const std::string& name, const std::vector<std::int64_t>& shape, std::uint16_t value) {
  return {name, DType::kBF16, shape, [shape, value](const ByteSink& sink) {
            write_pieces<std::uint16_t>(product(shape), sink,
                                        [&](std::int64_t, auto values) { std::ranges::fill(values, value); });
          }};
}

PlannedTensor normal(const std::string& name, const std::vector<std::int64_t>& shape, const RandomWeights& random) {
  return {name, DType::kBF16, shape, [name, shape, &random](const ByteSink& sink) {
            write_pieces<std::uint16_t>(product(shape), sink,
                                        [&](std::int64_t first, auto values) { random.normal(name, first, values); });
          }};
}

PlannedTensor blocks(const std::string& name, std::vector<std::int64_t> shape, const RandomWeights& random) {
  shape.back() /= kMxfp4BlockSize;
  shape.push_back(kMxfp4BlockBytes);
  return {name + "_blocks", DType::kU8, shape, [name, shape, &random](const ByteSink& sink) {
            write_pieces<std::uint8_t>(product(shape), sink, [&](std::int64_t first, auto values) {
              random.mxfp4_blocks(name, first / kMxfp4BlockBytes, values);
            });
          }};
}

PlannedTensor scales(const std::string& name, std::vector<std::int64_t> shape, const RandomWeights& random) {
  shape.back() /= kMxfp4BlockSize;
  return {name + "_scales", DType::kU8, shape, [name, shape, &random](const ByteSink& sink) {
            write_pieces<std::uint8_t>(product(shape), sink, [&](std::int64_t first, auto values) {
              random.mxfp4_scales(name, first, values);
            });
          }};
}

std::vector<PlannedTensor> plan(const ModelConfig& config, bool mxfp4, const RandomWeights& random) {
  std::vector<PlannedTensor> tensors;
  for (const auto& [name, shape, is_expert_weight] : tensor_shapes(config)) {
    if (is_expert_weight && mxfp4) {
      tensors.push_back(blocks(name, shape, random));
      tensors.push_back(scales(name, shape, random));
    } else if (is_expert_weight) {
      tensors.push_back(normal(name, {shape[0], shape[2], shape[1]}, random));
    } else if (name.ends_with("norm.weight")) {
      tensors.push_back(constant(name, shape, kOne));
    } else if (name.ends_with("bias") || name.ends_with("sinks")) {
      tensors.push_back(constant(name, shape, 0));
    } else {
      tensors.push_back(normal(name, shape, random));
    }
  }
  return tensors;
}

/// The published file for gpt-oss's own vocabulary; for another one, the ids that config.json knows.
std::string generation_config_json(const ModelConfig& config) {
  constexpr std::int64_t kStartOfText = 199998, kEndOfText = 199999, kReturn = 200002, kCall = 200012;
  nlohmann::json root = {{"do_sample", true}, {"transformers_version", "4.55.0.dev0"}};
  if (config.eos_token_id == kReturn && config.pad_token_id == kEndOfText && config.vocab_size > kCall) {
    root["bos_token_id"] = kStartOfText;
    root["eos_token_id"] = {kReturn, kEndOfText, kCall};
  } else if (config.eos_token_id >= 0) {
    root["eos_token_id"] = config.eos_token_id;
  }
  if (config.pad_token_id >= 0) root["pad_token_id"] = config.pad_token_id;
  return root.dump(2) + "\n";
}

}  // namespace

void init_checkpoint(const ModelConfig& config, std::uint64_t seed, ExpertStorage experts,
                     const std::optional<std::filesystem::path>& tokenizer_dir, const std::filesystem::path& out,
                     std::int64_t max_shard_bytes, const std::function<void(std::int64_t, std::int64_t)>& progress) {
  validate(config, "init");
  if (tokenizer_dir && !std::filesystem::exists(*tokenizer_dir / "tokenizer.json")) {
    throw CheckpointError(tokenizer_dir->string() +
                          ": has no tokenizer.json; name the directory that holds the model's tokenizer");
  }
  const bool mxfp4 = experts == ExpertStorage::kMxfp4;
  StagingDirectory staging(out);
  const RandomWeights random(seed, kInitializerRange);
  write_checkpoint_files(staging.path(), plan(config, mxfp4, random), max_shard_bytes, progress);
  write_text_file(staging.path() / "config.json", hf_config_json(config, mxfp4));
  write_text_file(staging.path() / "generation_config.json", generation_config_json(config));
  if (tokenizer_dir) copy_companion_files(*tokenizer_dir, staging.path());
  staging.commit();
}

}  // namespace ossature
