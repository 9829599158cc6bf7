// Checkpoints in transformers' and OpenAI's layouts.
#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include <ATen/ATen.h>

#include "model/checkpoint/checkpoint_contents.h"
#include "model/checkpoint/checkpoint_files.h"
#include "model/checkpoint/companions.h"
#include "model/checkpoint/gguf_tokenizer.h"
#include "model/files/mapped_pages.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using File = std::shared_ptr<const SafetensorsFile>;

struct Stored {
  File file;
  const TensorInfo* info = nullptr;
};
using StoredTensors = std::map<std::string, Stored, std::less<>>;

bool has_safetensors(const fs::path& dir) {
  if (!fs::is_directory(dir)) return false;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() == ".safetensors") return true;
  }
  return false;
}

/// OpenAI's name of a tensor given by transformers' name; q, k and v are parts of one there.
std::string openai_name(const std::string& name) {
  if (name == "model.embed_tokens.weight") return "embedding.weight";
  if (name == "model.norm.weight") return "norm.scale";
  if (name == "lm_head.weight") return "unembedding.weight";
  static const std::map<std::string, std::string> kParts = {
      {"input_layernorm.weight", "attn.norm.scale"},
      {"self_attn.q_proj.weight", "attn.qkv.weight"},
      {"self_attn.k_proj.weight", "attn.qkv.weight"},
      {"self_attn.v_proj.weight", "attn.qkv.weight"},
      {"self_attn.q_proj.bias", "attn.qkv.bias"},
      {"self_attn.k_proj.bias", "attn.qkv.bias"},
      {"self_attn.v_proj.bias", "attn.qkv.bias"},
      {"self_attn.o_proj.weight", "attn.out.weight"},
      {"self_attn.o_proj.bias", "attn.out.bias"},
      {"self_attn.sinks", "attn.sinks"},
      {"post_attention_layernorm.weight", "mlp.norm.scale"},
      {"mlp.router.weight", "mlp.gate.weight"},
      {"mlp.router.bias", "mlp.gate.bias"},
      {"mlp.experts.gate_up_proj", "mlp.mlp1_weight"},
      {"mlp.experts.gate_up_proj_bias", "mlp.mlp1_bias"},
      {"mlp.experts.down_proj", "mlp.mlp2_weight"},
      {"mlp.experts.down_proj_bias", "mlp.mlp2_bias"},
  };
  const std::string prefix = "model.layers.";
  const auto dot = name.starts_with(prefix) ? name.find('.', prefix.size()) : std::string::npos;
  const auto part = dot == std::string::npos ? kParts.end() : kParts.find(name.substr(dot + 1));
  if (part == kParts.end()) return name;  // not one of a gpt-oss; no such tensor will be found
  return "block." + name.substr(prefix.size(), dot - prefix.size()) + "." + part->second;
}

/// Rows of OpenAI's joint qkv tensor that belong to `name`: first and count; count 0 if `name` is no part of one.
std::pair<std::int64_t, std::int64_t> qkv_rows(const std::string& name, const ModelConfig& config) {
  const auto q = config.query_size(), kv = config.key_value_size();
  if (name.find(".q_proj.") != std::string::npos) return {0, q};
  if (name.find(".k_proj.") != std::string::npos) return {q, kv};
  if (name.find(".v_proj.") != std::string::npos) return {q + kv, kv};
  return {0, 0};
}

class SafetensorsContents final : public CheckpointContents {
 public:
  explicit SafetensorsContents(const fs::path& given) {
    dir = given;
    if (!fs::is_directory(dir)) {
      throw CheckpointError(dir.string() +
                            ": not a directory; give the directory that holds config.json and *.safetensors, or a " +
                            "GGUF file");
    }
    if (!has_safetensors(dir) && has_safetensors(dir / "original")) dir = dir / "original";
    config = read_config(dir / "config.json");
    open_files();
    layout_ = stored_.count("embedding.weight") > 0 ? Layout::kOpenAi : Layout::kHf;
    check_tensors();
  }

  [[nodiscard]] Layout layout() const override { return layout_; }

  [[nodiscard]] at::Tensor tensor(const std::string& name) const override {
    if (layout_ == Layout::kHf) return stored_tensor(name);
    const auto [first, count] = qkv_rows(name, config);
    const at::Tensor whole = stored_tensor(openai_name(name));
    return count > 0 ? whole.narrow(0, first, count) : whole;
  }

  [[nodiscard]] at::ScalarType expert_dtype(const std::string& name) const override {
    return is_packed(name) ? at::kByte : stored_tensor(stored_name(name)).scalar_type();
  }

  [[nodiscard]] ExpertWeight expert_weight(const std::string& name) const override {
    if (is_packed(name)) return {{stored_tensor(blocks_name(name)), stored_tensor(scales_name(name))}, {}};
    return {{}, stored_tensor(stored_name(name)).transpose(1, 2)};
  }

  void check_scales() const override {
    for (const auto& [name, stored] : stored_) {
      if (!name.ends_with("scales")) continue;
      const at::Tensor scales = wrap(stored.file, *stored.info);
      check_largest_scale(scales.numel() > 0 ? scales.max().item<std::uint8_t>() : 0, stored.file->path(), name);
      release_pages(stored.file->bytes(*stored.info));
    }
  }

  void release(const std::string& name) const override {
    for (const std::string& stored_as : {stored_name(name), blocks_name(name), scales_name(name)}) {
      const auto found = stored_.find(stored_as);
      if (found != stored_.end()) release_pages(found->second.file->bytes(*found->second.info));
    }
  }

  [[nodiscard]] std::vector<StoredTensor> stored_tensors() const override {
    std::vector<StoredTensor> all;
    for (const File& file : files_) {
      for (const TensorInfo& info : file->tensors()) {
        StoredTensor& stored = all.emplace_back();
        stored = {file->path(), info.name, std::string(dtype_name(info.dtype)), 1,
                  static_cast<std::int64_t>(info.end - info.begin)};
        for (const std::int64_t size : info.shape) stored.parameters *= size;
        if (info.dtype == DType::kU8) {
          const bool is_blocks = info.name.ends_with("blocks");
          stored.dtype = is_blocks ? "MXFP4" : "";
          stored.parameters *= is_blocks ? 2 : 0;
        }
      }
    }
    return all;
  }

  [[nodiscard]] std::vector<MappedPart> layer_parts(std::int64_t n) const override {
    const std::string prefix = (layout_ == Layout::kOpenAi ? "block." : "model.layers.") + std::to_string(n) + ".";
    std::vector<MappedPart> all;
    for (auto it = stored_.lower_bound(prefix); it != stored_.end() && it->first.starts_with(prefix); ++it) {
      all.push_back({it->second.file->file(), it->second.file->bytes(*it->second.info)});
    }
    return all;
  }

  void write_companions(const fs::path& to) const override { copy_companion_files(dir, to); }
  [[nodiscard]] GgufKeyValues gguf_tokenizer() const override { return ossature::gguf_tokenizer(dir, config); }

 private:
  [[nodiscard]] std::string stored_name(const std::string& name) const {
    return layout_ == Layout::kOpenAi ? openai_name(name) : name;
  }
  [[nodiscard]] std::string blocks_name(const std::string& name) const {
    return stored_name(name) + (layout_ == Layout::kOpenAi ? ".blocks" : "_blocks");
  }
  [[nodiscard]] std::string scales_name(const std::string& name) const {
    return stored_name(name) + (layout_ == Layout::kOpenAi ? ".scales" : "_scales");
  }

  /// Whether the expert weight `name` is stored in MXFP4.
  [[nodiscard]] bool is_packed(const std::string& name) const { return stored_.count(blocks_name(name)) > 0; }

  [[nodiscard]] const Stored& at(std::string_view name) const {
    const auto found = stored_.find(name);
    if (found == stored_.end()) throw CheckpointError(dir.string() + ": no tensor " + escaped(name));
    return found->second;
  }
  [[nodiscard]] at::Tensor stored_tensor(std::string_view name) const {
    const Stored& found = at(name);
    return wrap(found.file, *found.info);
  }

  void open_files() {
    files_ = open_checkpoint_files(dir);
    for (const File& file : files_) {
      for (const TensorInfo& info : file->tensors()) {
        const auto [found, is_new] = stored_.try_emplace(info.name, Stored{file, &info});
        if (is_new) continue;
        throw CheckpointError(
            file->path().string() + ": tensor " + escaped(info.name) + " is also in " +
            found->second.file->path().filename().string() +
            "; expected every tensor in one file; remove the file that is not part of the checkpoint");
      }
    }
  }

  /// Checks one expected tensor and notes that its name was used.
  void expect(const std::string& name, std::vector<std::int64_t> shape, bool packed,
              std::set<std::string>& used) const {
    const auto found = stored_.find(name);
    if (found == stored_.end()) {
      fail_on_missing(dir, name, shape);
    }
    const TensorInfo& info = *found->second.info;
    const std::string where = found->second.file->path().string() + ": " + name;
    if (info.shape != shape) {
      throw CheckpointError(where + ": shape " + shape_text(info.shape) + "; expected " + shape_text(shape) +
                            " by config.json; one of the two files is of another model");
    }
    const bool fits = packed ? info.dtype == DType::kU8 : info.dtype == DType::kBF16 || info.dtype == DType::kF32;
    if (!fits) {
      throw CheckpointError(where + ": dtype " + std::string(dtype_name(info.dtype)) + "; expected " +
                            (packed ? "U8" : "BF16 or F32") + "; convert the checkpoint");
    }
    used.insert(name);
  }

  /// How the experts of layer `n` are to be stored, by what is there of them: both weights alike, since loaders take
  /// the experts of a layer as one module. `otherwise` if nothing is.
  [[nodiscard]] bool expects_packed(std::int64_t n, bool otherwise) const {
    const std::vector<std::string> names = expert_weight_names(n);
    const auto is_stored = [&](auto stored_as) {
      return std::any_of(names.begin(), names.end(),
                         [&](const std::string& name) { return stored_.count(stored_as(name)) > 0; });
    };
    if (is_stored([&](const std::string& name) { return stored_name(name); })) return false;
    return is_stored([&](const std::string& name) { return blocks_name(name); }) || otherwise;
  }

  void check_tensors() {
    const bool has_blocks = layout_ == Layout::kOpenAi ||
                            std::any_of(stored_.begin(), stored_.end(),
                                        [](const auto& entry) { return entry.first.ends_with("_proj_blocks"); });
    std::set<std::string> packed;
    for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
      if (!expects_packed(n, has_blocks)) continue;
      for (const std::string& name : expert_weight_names(n)) packed.insert(name);
    }
    std::set<std::string> used;
    for (const TensorShape& tensor : tensor_shapes(config)) {
      std::vector<std::int64_t> shape = tensor.shape;
      if (tensor.is_expert_weight) {
        const auto e = shape[0], out = shape[1], in = shape[2];
        if (packed.count(tensor.name) > 0) {
          expect(blocks_name(tensor.name), {e, out, in / kMxfp4BlockSize, kMxfp4BlockBytes}, true, used);
          expect(scales_name(tensor.name), {e, out, in / kMxfp4BlockSize}, true, used);
        } else {
          expect(stored_name(tensor.name), {e, in, out}, false, used);
        }
        continue;
      }
      if (layout_ == Layout::kOpenAi && qkv_rows(tensor.name, config).second > 0) {
        shape[0] = config.query_size() + 2 * config.key_value_size();
      }
      expect(stored_name(tensor.name), shape, false, used);
    }
    for (const auto& [name, where] : stored_) {
      if (used.count(name) == 0) {
        throw CheckpointError(
            where.file->path().string() + ": tensor " + escaped(name) +
            " is not part of a gpt-oss model; expected only those of config.json; is config.json of another model?");
      }
    }
  }

  Layout layout_ = Layout::kHf;
  std::vector<File> files_;
  StoredTensors stored_;
};

}  // namespace

std::shared_ptr<const CheckpointContents> open_safetensors_contents(const fs::path& dir) {
  return std::make_shared<SafetensorsContents>(dir);
}

at::Tensor wrap(const File& file, const TensorInfo& info) {
  const std::map<DType, at::ScalarType> kTypes = {
      {DType::kBool, at::kBool}, {DType::kU8, at::kByte},   {DType::kI8, at::kChar},  {DType::kI16, at::kShort},
      {DType::kI32, at::kInt},   {DType::kI64, at::kLong},  {DType::kF16, at::kHalf}, {DType::kBF16, at::kBFloat16},
      {DType::kF32, at::kFloat}, {DType::kF64, at::kDouble}};
  // LibTorch has no tensors of constant data; whoever writes to this one faults on the read-only mapping.
  auto* data = const_cast<std::byte*>(file->bytes(info).data());
  return at::from_blob(
      data, info.shape, [file](void*) {}, at::TensorOptions().dtype(kTypes.at(info.dtype)));
}

}  // namespace ossature
