// Checkpoints in a GGUF file.
#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/checkpoint/checkpoint_contents.h"
#include "model/checkpoint/gguf_config.h"
#include "model/checkpoint/gguf_names.h"
#include "model/checkpoint/gguf_tokenizer.h"
#include "model/files/mapped_pages.h"
#include "model/files/safetensors_header.h"
#include "model/kernels/mxfp4_ggml.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using File = std::shared_ptr<const GgufFile>;

/// A tensor that wraps bytes of `file` without copying and keeps the file alive: of MXFP4 as uint8 [rows, blocks, 17].
at::Tensor wrap(const File& file, const GgufTensor& info) {
  std::vector<std::int64_t> shape = info.shape;
  auto dtype = info.type == GgmlType::kF32 ? at::kFloat : at::kBFloat16;
  if (info.type == GgmlType::kMxfp4) {
    shape = {shape[0] * shape[1], shape[2] / kMxfp4BlockSize, kGgmlMxfp4BlockBytes};
    dtype = at::kByte;
  }
  // LibTorch has no tensors of constant data; whoever writes to this one faults on the read-only mapping.
  auto* data = const_cast<std::byte*>(file->bytes(info).data());
  return at::from_blob(
      data, shape, [file](void*) {}, at::TensorOptions().dtype(dtype));
}

/// In bfloat16 if that holds every value.
at::Tensor narrowed(const at::Tensor& tensor) {
  if (tensor.scalar_type() != at::kFloat) return tensor;
  const bool is_exact = tensor.contiguous().view(at::kInt).bitwise_and(0xffff).eq(0).all().item<bool>();
  return is_exact ? tensor.to(at::kBFloat16) : tensor;
}

class GgufContents final : public CheckpointContents {
 public:
  explicit GgufContents(const fs::path& path) : file_(GgufFile::open(path)) {
    dir = path;
    config = read_gguf_config(*file_);
    check_tensors();
  }

  [[nodiscard]] Layout layout() const override { return Layout::kGguf; }

  [[nodiscard]] at::Tensor tensor(const std::string& name) const override {
    const std::vector<const GgufTensor*> parts = stored(name);
    // Gate's and up's values take turns.
    const at::Tensor whole = parts.size() == 1
                                 ? wrap(file_, *parts[0])
                                 : at::stack({wrap(file_, *parts[0]), wrap(file_, *parts[1])}, -1).flatten(-2);
    return gguf_is_always_f32(parts[0]->name) ? narrowed(whole) : whole;
  }

  [[nodiscard]] at::ScalarType expert_dtype(const std::string& name) const override {
    const GgmlType type = stored(name).front()->type;
    return type == GgmlType::kMxfp4 ? at::kByte : type == GgmlType::kF32 ? at::kFloat : at::kBFloat16;
  }

  [[nodiscard]] ExpertWeight expert_weight(const std::string& name) const override {
    const std::vector<const GgufTensor*> parts = stored(name);
    if (parts[0]->type == GgmlType::kMxfp4) return {packed(parts), {}};
    if (parts.size() == 1) return {{}, wrap(file_, *parts[0])};
    return {{}, at::stack({wrap(file_, *parts[0]), wrap(file_, *parts[1])}, 2).flatten(1, 2)};
  }

  void check_scales() const override {
    for (const GgufTensor& info : file_->tensors()) {
      if (info.type != GgmlType::kMxfp4) continue;
      check_largest_scale(wrap(file_, info).select(2, 0).max().item<std::uint8_t>(), dir, info.name);
      release_pages(file_->bytes(info));
    }
  }

  void release(const std::string& name) const override {
    for (const GgufTensor* part : stored(name)) release_pages(file_->bytes(*part));
  }

  [[nodiscard]] std::vector<StoredTensor> stored_tensors() const override {
    std::vector<StoredTensor> all;
    for (const GgufTensor& info : file_->tensors()) {
      StoredTensor& stored = all.emplace_back();
      stored = {dir, info.name, std::string(ggml_type_name(info.type)), 1,
                static_cast<std::int64_t>(info.end - info.begin)};
      for (const std::int64_t size : info.shape) stored.parameters *= size;
    }
    return all;
  }

  [[nodiscard]] std::vector<MappedPart> layer_parts(std::int64_t n) const override {
    const std::string prefix = "blk." + std::to_string(n) + ".";
    std::vector<MappedPart> all;
    for (const GgufTensor& info : file_->tensors())
      if (info.name.starts_with(prefix)) all.push_back({file_->file(), file_->bytes(info)});
    return all;
  }

  void write_companions(const fs::path& to) const override { write_gguf_tokenizer(*file_, to); }

  [[nodiscard]] GgufKeyValues gguf_tokenizer() const override {
    GgufKeyValues values;
    for (const auto& [key, value] : file_->key_values())
      if (key.starts_with("tokenizer.") || key == "gpt-oss.vocab_size") values.emplace_back(key, value);
    return values;
  }

 private:
  [[nodiscard]] std::vector<const GgufTensor*> stored(const std::string& name) const {
    std::vector<const GgufTensor*> parts;
    for (const std::string& part : gguf_names(name)) parts.push_back(file_->find(part));
    if (parts.empty() || std::ranges::count(parts, nullptr) > 0)
      throw CheckpointError(dir.string() + ": no tensor " + escaped(name));
    return parts;
  }

  /// Row r of the result is row r / parts of part r % parts, in gpt-oss's order of nibbles.
  [[nodiscard]] Mxfp4Tensor packed(const std::vector<const GgufTensor*>& parts) const {
    const auto count = std::ssize(parts);
    const auto experts = parts[0]->shape[0], rows = parts[0]->shape[1] * count,
               groups = parts[0]->shape[2] / kMxfp4BlockSize;
    std::vector<const std::uint8_t*> sources;
    for (const GgufTensor* part : parts)
      sources.push_back(reinterpret_cast<const std::uint8_t*>(file_->bytes(*part).data()));
    Mxfp4Tensor whole{at::empty({experts, rows, groups, kMxfp4BlockBytes}, at::kByte),
                      at::empty({experts, rows, groups}, at::kByte)};
    auto* blocks = whole.blocks.data_ptr<std::uint8_t>();
    auto* scales = whole.scales.data_ptr<std::uint8_t>();
    at::parallel_for(0, experts * rows, 64, [&](std::int64_t begin, std::int64_t end) {
      for (auto row = begin; row < end; ++row) {
        const auto* source = sources[static_cast<std::size_t>(row % count)];
        mxfp4_from_ggml(source + row / count * groups * kGgmlMxfp4BlockBytes, groups,
                        blocks + row * groups * kMxfp4BlockBytes, scales + row * groups);
      }
    });
    return whole;
  }

  [[noreturn]] void refuse(const GgufTensor& info, const std::string& found, const std::string& expected) const {
    throw CheckpointError(dir.string() + ": " + info.name + ": " + found + "; expected " + expected +
                          "; convert the model anew");
  }

  void check_tensors() const {
    std::set<std::string> used;
    for (const TensorShape& tensor : tensor_shapes(config)) {
      const std::vector<std::string> names = gguf_names(tensor.name);
      std::vector<std::int64_t> shape = tensor.shape;
      if (names.size() > 1) shape[1] /= std::ssize(names);
      const GgufTensor* first = nullptr;
      for (const std::string& name : names) {
        const GgufTensor* info = file_->find(name);
        if (info == nullptr) fail_on_missing(dir, name, shape);
        if (info->shape != shape)
          refuse(*info, "shape " + shape_text(info->shape), shape_text(shape) + " by the file's own keys");
        const std::string type(ggml_type_name(info->type));
        if (gguf_is_always_f32(name) && info->type != GgmlType::kF32) refuse(*info, "type " + type, "F32");
        if (!tensor.is_expert_weight && info->type == GgmlType::kMxfp4) refuse(*info, "type " + type, "BF16 or F32");
        if (first != nullptr && first->type != info->type)
          refuse(*info, "type " + type, std::string(ggml_type_name(first->type)) + " as " + first->name);
        first = info;
        used.insert(name);
      }
    }
    for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
      const std::vector<std::string> weights = expert_weight_names(n);
      const GgufTensor& gate = *stored(weights[0])[0];
      const GgufTensor& down = *stored(weights[1])[0];
      if ((gate.type == GgmlType::kMxfp4) != (down.type == GgmlType::kMxfp4))
        refuse(down, "type " + std::string(ggml_type_name(down.type)),
               std::string(ggml_type_name(gate.type)) + " as " + gate.name);
    }
    for (const GgufTensor& info : file_->tensors()) {
      if (used.count(info.name) == 0)
        throw CheckpointError(
            dir.string() + ": tensor " + escaped(info.name) +
            " is not part of a gpt-oss model; expected only those of its keys; is it of another model?");
    }
  }

  File file_;
};

}  // namespace

std::shared_ptr<const CheckpointContents> open_gguf_contents(const fs::path& file) {
  return std::make_shared<GgufContents>(file);
}

}  // namespace ossature
