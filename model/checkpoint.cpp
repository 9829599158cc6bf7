#include "model/checkpoint.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include <ATen/ATen.h>

#include "model/checkpoint_files.h"
#include "model/mapped_pages.h"
#include "model/safetensors_header.h"

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

}  // namespace

struct Checkpoint::Contents {
  fs::path dir;
  ModelConfig config;
  Layout layout = Layout::kHf;
  std::vector<File> files;
  StoredTensors stored;
  std::int64_t num_parameters = 0;
  std::int64_t num_packed_layers = 0;

  [[nodiscard]] std::string stored_name(const std::string& name) const {
    return layout == Layout::kOpenAi ? openai_name(name) : name;
  }
  [[nodiscard]] std::string blocks_name(const std::string& name) const {
    return stored_name(name) + (layout == Layout::kOpenAi ? ".blocks" : "_blocks");
  }
  [[nodiscard]] std::string scales_name(const std::string& name) const {
    return stored_name(name) + (layout == Layout::kOpenAi ? ".scales" : "_scales");
  }

  /// Whether the expert weight `name` is stored in MXFP4.
  [[nodiscard]] bool is_packed(const std::string& name) const { return stored.count(blocks_name(name)) > 0; }

  [[nodiscard]] const Stored& at(std::string_view name) const {
    const auto found = stored.find(name);
    if (found == stored.end()) throw CheckpointError(dir.string() + ": no tensor " + escaped(name));
    return found->second;
  }
  [[nodiscard]] at::Tensor tensor(std::string_view name) const {
    const Stored& found = at(name);
    return wrap(found.file, *found.info);
  }

  void open_files() {
    files = open_checkpoint_files(dir);
    for (const File& file : files) {
      for (const TensorInfo& info : file->tensors()) {
        const auto [found, is_new] = stored.try_emplace(info.name, Stored{file, &info});
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
    const auto found = stored.find(name);
    if (found == stored.end()) {
      throw CheckpointError(dir.string() + ": tensor " + name + " is missing; expected one of shape " +
                            shape_text(shape) + "; the files are incomplete or config.json is of another model");
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
                         [&](const std::string& name) { return stored.count(stored_as(name)) > 0; });
    };
    if (is_stored([&](const std::string& name) { return stored_name(name); })) return false;
    return is_stored([&](const std::string& name) { return blocks_name(name); }) || otherwise;
  }

  void check_tensors() {
    const bool has_blocks = layout == Layout::kOpenAi ||
                            std::any_of(stored.begin(), stored.end(),
                                        [](const auto& entry) { return entry.first.ends_with("_proj_blocks"); });
    std::set<std::string> packed;
    for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
      if (!expects_packed(n, has_blocks)) continue;
      ++num_packed_layers;
      for (const std::string& name : expert_weight_names(n)) packed.insert(name);
    }
    std::set<std::string> used;
    for (const TensorShape& tensor : tensor_shapes(config)) {
      num_parameters += std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
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
      if (layout == Layout::kOpenAi && qkv_rows(tensor.name, config).second > 0) {
        shape[0] = config.query_size() + 2 * config.key_value_size();
      }
      expect(stored_name(tensor.name), shape, false, used);
    }
    for (const auto& [name, where] : stored) {
      if (used.count(name) == 0) {
        throw CheckpointError(
            where.file->path().string() + ": tensor " + escaped(name) +
            " is not part of a gpt-oss model; expected only those of config.json; is config.json of another model?");
      }
    }
  }
};

Checkpoint::Checkpoint(const fs::path& dir) {
  auto contents = std::make_shared<Contents>();
  contents->dir = dir;
  if (!fs::is_directory(dir)) {
    throw CheckpointError(dir.string() +
                          ": not a directory; give the directory that holds config.json and *.safetensors");
  }
  if (!has_safetensors(dir) && has_safetensors(dir / "original")) contents->dir = dir / "original";
  contents->config = read_config(contents->dir / "config.json");
  contents->open_files();
  contents->layout = contents->stored.count("embedding.weight") > 0 ? Layout::kOpenAi : Layout::kHf;
  contents->check_tensors();
  contents_ = std::move(contents);
}

const fs::path& Checkpoint::dir() const {
  return contents_->dir;
}
const ModelConfig& Checkpoint::config() const {
  return contents_->config;
}
Layout Checkpoint::layout() const {
  return contents_->layout;
}
ExpertStorage Checkpoint::experts() const {
  if (contents_->num_packed_layers == 0) return ExpertStorage::kBf16;
  return contents_->num_packed_layers == contents_->config.num_hidden_layers ? ExpertStorage::kMxfp4
                                                                             : ExpertStorage::kMixed;
}
std::int64_t Checkpoint::num_parameters() const {
  return contents_->num_parameters;
}
const std::vector<File>& Checkpoint::files() const {
  return contents_->files;
}

std::int64_t Checkpoint::stored_bytes() const {
  std::int64_t sum = 0;
  for (const auto& [name, stored] : contents_->stored)
    sum += static_cast<std::int64_t>(stored.info->end - stored.info->begin);
  return sum;
}

at::Tensor Checkpoint::tensor(std::string_view name) const {
  const std::string text(name);
  if (contents_->layout == Layout::kOpenAi) {
    const auto [first, count] = qkv_rows(text, contents_->config);
    const at::Tensor whole = contents_->tensor(openai_name(text));
    return count > 0 ? whole.narrow(0, first, count) : whole;
  }
  return contents_->tensor(text);
}

ExpertWeight Checkpoint::expert_weight(std::string_view name) const {
  const std::string text(name);
  if (contents_->is_packed(text)) {
    return {{contents_->tensor(contents_->blocks_name(text)), contents_->tensor(contents_->scales_name(text))}, {}};
  }
  return {{}, contents_->tensor(contents_->stored_name(text)).transpose(1, 2)};
}

void Checkpoint::check_scales() const {
  for (const auto& [name, stored] : contents_->stored) {
    if (!name.ends_with("scales")) continue;
    const at::Tensor scales = wrap(stored.file, *stored.info);
    const auto largest = scales.numel() > 0 ? scales.max().item<std::uint8_t>() : 0;
    if (largest > kMxfp4MaxScale) {
      throw CheckpointError(stored.file->path().string() + ": " + name + ": holds the scale byte " +
                            std::to_string(largest) + "; expected at most " + std::to_string(kMxfp4MaxScale) +
                            ", beyond which bfloat16 has no number; the file is damaged");
    }
    release_pages(stored.file->bytes(*stored.info));
  }
}

void Checkpoint::release(std::string_view name) const {
  const std::string text(name);
  for (const std::string& stored_as :
       {contents_->stored_name(text), contents_->blocks_name(text), contents_->scales_name(text)}) {
    const auto found = contents_->stored.find(stored_as);
    if (found != contents_->stored.end()) release_pages(found->second.file->bytes(*found->second.info));
  }
}

std::vector<std::span<const std::byte>> Checkpoint::layer_bytes(std::int64_t n) const {
  const std::string prefix =
      (contents_->layout == Layout::kOpenAi ? "block." : "model.layers.") + std::to_string(n) + ".";
  const auto& stored = contents_->stored;
  std::vector<std::span<const std::byte>> all;
  for (auto it = stored.lower_bound(prefix); it != stored.end() && it->first.starts_with(prefix); ++it) {
    all.push_back(it->second.file->bytes(*it->second.info));
  }
  return all;
}

std::vector<std::string> expert_weight_names(std::int64_t n) {
  const std::string experts = "model.layers." + std::to_string(n) + ".mlp.experts.";
  return {experts + "gate_up_proj", experts + "down_proj"};
}

std::vector<TensorShape> tensor_shapes(const ModelConfig& config) {
  const auto hidden = config.hidden_size, inner = config.intermediate_size, experts = config.num_local_experts;
  const auto q = config.query_size(), kv = config.key_value_size();
  // The hub's shards hold layers in the order of their names: 0, 1, 10, 11, ..., 2, 20, ...
  std::vector<std::string> layers;
  for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) layers.push_back(std::to_string(n));
  std::sort(layers.begin(), layers.end());
  std::vector<TensorShape> shapes;
  for (const std::string& n : layers) {
    const std::string p = "model.layers." + n + ".";
    shapes.push_back({p + "input_layernorm.weight", {hidden}});
    shapes.push_back({p + "mlp.experts.down_proj", {experts, hidden, inner}, true});
    shapes.push_back({p + "mlp.experts.down_proj_bias", {experts, hidden}});
    shapes.push_back({p + "mlp.experts.gate_up_proj", {experts, 2 * inner, hidden}, true});
    shapes.push_back({p + "mlp.experts.gate_up_proj_bias", {experts, 2 * inner}});
    shapes.push_back({p + "mlp.router.bias", {experts}});
    shapes.push_back({p + "mlp.router.weight", {experts, hidden}});
    shapes.push_back({p + "post_attention_layernorm.weight", {hidden}});
    shapes.push_back({p + "self_attn.k_proj.bias", {kv}});
    shapes.push_back({p + "self_attn.k_proj.weight", {kv, hidden}});
    shapes.push_back({p + "self_attn.o_proj.bias", {hidden}});
    shapes.push_back({p + "self_attn.o_proj.weight", {hidden, q}});
    shapes.push_back({p + "self_attn.q_proj.bias", {q}});
    shapes.push_back({p + "self_attn.q_proj.weight", {q, hidden}});
    shapes.push_back({p + "self_attn.sinks", {config.num_attention_heads}});
    shapes.push_back({p + "self_attn.v_proj.bias", {kv}});
    shapes.push_back({p + "self_attn.v_proj.weight", {kv, hidden}});
  }
  shapes.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  shapes.push_back({"model.norm.weight", {hidden}});
  shapes.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return shapes;
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
