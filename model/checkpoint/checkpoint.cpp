#include "model/checkpoint/checkpoint.h"

#include <algorithm>

#include "model/checkpoint/checkpoint_contents.h"
#include "model/files/safetensors_header.h"

namespace ossature {

namespace fs = std::filesystem;

namespace {

std::shared_ptr<const CheckpointContents> open_contents(const fs::path& path) {
  if (path.extension() == ".gguf" && !fs::is_directory(path)) return open_gguf_contents(path);
  const fs::path inside = path / "model.gguf";
  if (fs::exists(inside) && !fs::exists(path / "config.json")) return open_gguf_contents(inside);
  return open_safetensors_contents(path);
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& path) : contents_(open_contents(path)) {}

const fs::path& Checkpoint::dir() const {
  return contents_->dir;
}
const ModelConfig& Checkpoint::config() const {
  return contents_->config;
}
Layout Checkpoint::layout() const {
  return contents_->layout();
}
at::Tensor Checkpoint::tensor(std::string_view name) const {
  return contents_->tensor(std::string(name));
}
at::ScalarType Checkpoint::expert_dtype(std::string_view name) const {
  return contents_->expert_dtype(std::string(name));
}
ExpertWeight Checkpoint::expert_weight(std::string_view name) const {
  return contents_->expert_weight(std::string(name));
}
void Checkpoint::check_scales() const {
  contents_->check_scales();
}
void Checkpoint::release(std::string_view name) const {
  contents_->release(std::string(name));
}
std::vector<StoredTensor> Checkpoint::stored_tensors() const {
  return contents_->stored_tensors();
}
std::vector<MappedPart> Checkpoint::layer_parts(std::int64_t n) const {
  return contents_->layer_parts(n);
}
void Checkpoint::write_companions(const fs::path& to) const {
  contents_->write_companions(to);
}
GgufKeyValues Checkpoint::gguf_tokenizer() const {
  return contents_->gguf_tokenizer();
}

ExpertStorage Checkpoint::experts() const {
  bool has_packed = false, has_dense = false;
  for (std::int64_t n = 0; n < config().num_hidden_layers; ++n) {
    const bool is_packed = expert_dtype(expert_weight_names(n).front()) == at::kByte;
    (is_packed ? has_packed : has_dense) = true;
  }
  return has_packed && has_dense ? ExpertStorage::kMixed : has_packed ? ExpertStorage::kMxfp4 : ExpertStorage::kBf16;
}

std::int64_t Checkpoint::num_parameters() const {
  std::int64_t sum = 0;
  for (const StoredTensor& tensor : stored_tensors()) sum += tensor.parameters;
  return sum;
}

std::int64_t Checkpoint::stored_bytes() const {
  std::int64_t sum = 0;
  for (const StoredTensor& tensor : stored_tensors()) sum += tensor.bytes;
  return sum;
}

void fail_on_missing(const fs::path& where, const std::string& name, const std::vector<std::int64_t>& shape) {
  throw CheckpointError(where.string() + ": tensor " + name + " is missing; expected one of shape " +
                        shape_text(shape) + "; the files are incomplete or config.json is of another model");
}

void check_largest_scale(int largest, const fs::path& file, const std::string& name) {
  if (largest <= kMxfp4MaxScale) return;
  throw CheckpointError(file.string() + ": " + name + ": holds the scale byte " + std::to_string(largest) +
                        "; expected at most " + std::to_string(kMxfp4MaxScale) +
                        ", beyond which bfloat16 has no number; the file is damaged");
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

}  // namespace ossature
