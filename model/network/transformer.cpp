#include "model/network/transformer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "model/layers/rms_norm.h"
#include "model/network/layer_pager.h"

namespace ossature {
namespace {

/// Places of dropout masks; a layer has fewer than kPlacesPerLayer.
enum Place : std::uint64_t { kQ, kK, kV, kO, kRouter, kExperts };
constexpr std::uint64_t kPlacesPerLayer = 8;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
/// Bytes that the first touch of a mapped page may make resident: a huge page of x86-64.
constexpr std::int64_t kLargestMappedPiece = 2 << 20;

DropoutKey key_at(const Pass& pass, std::int64_t layer, Place place) {
  return {pass.dropout_seed, static_cast<std::uint64_t>(layer) * kPlacesPerLayer + place};
}

}  // namespace

Transformer::Transformer(const Checkpoint& checkpoint, at::ScalarType dtype, at::Device device)
    : config_(checkpoint.config()), dtype_(dtype), device_(device), checkpoint_(checkpoint) {
  const auto get = [&](const std::string& name) { return checkpoint.tensor(name).to(device); };
  const auto linear = [&](const std::string& name) { return Linear{get(name + ".weight"), get(name + ".bias"), {}}; };
  const auto expert_weight = [&](const std::string& name) {
    ExpertWeight weight = checkpoint.expert_weight(name);
    for (at::Tensor* part : {&weight.packed.blocks, &weight.packed.scales, &weight.dense}) {
      if (part->defined()) *part = part->to(device);
    }
    return weight;
  };
  embed_tokens = get(kEmbedding);
  const bool is_large = static_cast<std::int64_t>(embed_tokens.nbytes()) > kMappedEmbeddingBytes;
  mapped_embedding_ = device.is_cpu() && is_large ? embed_tokens.const_data_ptr() : nullptr;
  norm = get("model.norm.weight");
  lm_head = get("lm_head.weight");
  for (std::int64_t n = 0; n < config_.num_hidden_layers; ++n) {
    const std::string prefix = "model.layers." + std::to_string(n) + ".";
    Layer layer;
    layer.sliding = config_.sliding_layers[static_cast<std::size_t>(n)];
    layer.input_layernorm = get(prefix + "input_layernorm.weight");
    layer.q_proj = linear(prefix + "self_attn.q_proj");
    layer.k_proj = linear(prefix + "self_attn.k_proj");
    layer.v_proj = linear(prefix + "self_attn.v_proj");
    layer.o_proj = linear(prefix + "self_attn.o_proj");
    layer.sinks = get(prefix + "self_attn.sinks");
    layer.post_attention_layernorm = get(prefix + "post_attention_layernorm.weight");
    layer.router = linear(prefix + "mlp.router");
    layer.experts.gate_up = expert_weight(prefix + "mlp.experts.gate_up_proj");
    layer.experts.gate_up_bias = get(prefix + "mlp.experts.gate_up_proj_bias");
    layer.experts.down = expert_weight(prefix + "mlp.experts.down_proj");
    layer.experts.down_bias = get(prefix + "mlp.experts.down_proj_bias");
    layers_.push_back(std::move(layer));
  }
}

void Transformer::read_as_used(std::int64_t cached_layers) {
  if (device_.is_cpu()) pager_ = std::make_shared<LayerPager>(layers_, checkpoint_, cached_layers);
}

void Transformer::enter(std::int64_t n, std::int64_t next) const {
  if (pager_ != nullptr) pager_->enter(n, next);
}

double Transformer::attention_scale() const {
  return 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
}

at::Tensor Transformer::embed(const at::Tensor& tokens) const {
  // A trained embedding is a copy, which is no mapping.
  if (embed_tokens.const_data_ptr() != mapped_embedding_) return at::embedding(embed_tokens, tokens).to(at::kFloat);
  constexpr std::int64_t kRows = kMappedEmbeddingBytes / kLargestMappedPiece;
  const auto count = tokens.size(0);
  at::Tensor x = at::empty({count, config_.hidden_size}, at::kFloat);
  for (std::int64_t first = 0; first < count; first += kRows) {
    const auto rows = std::min(kRows, count - first);
    x.narrow(0, first, rows).copy_(at::embedding(embed_tokens, tokens.narrow(0, first, rows)));
    checkpoint_.release(kEmbedding);
  }
  return x;
}

Transformer::Projected Transformer::project(std::int64_t n, const at::Tensor& x, const Pass& pass) const {
  const Layer& layer = layers_[static_cast<std::size_t>(n)];
  const auto num_tokens = x.size(0);
  const at::Tensor normed = rms_norm(x, layer.input_layernorm, config_.rms_norm_eps, dtype_);
  const auto heads = [&](const Linear& linear, std::int64_t count, Place place) {
    return apply(linear, normed, key_at(pass, n, place)).view({num_tokens, count, config_.head_dim});
  };
  return {apply_rope(heads(layer.q_proj, config_.num_attention_heads, kQ), pass.rope),
          apply_rope(heads(layer.k_proj, config_.num_key_value_heads, kK), pass.rope),
          heads(layer.v_proj, config_.num_key_value_heads, kV)};
}

Transformer::ExpertInput Transformer::expert_input(std::int64_t n, const at::Tensor& x, const at::Tensor& out,
                                                   const Pass& pass) const {
  const Layer& layer = layers_[static_cast<std::size_t>(n)];
  const at::Tensor attended = x + apply(layer.o_proj, out, key_at(pass, n, kO));
  const at::Tensor normed = rms_norm(attended, layer.post_attention_layernorm, config_.rms_norm_eps, at::kFloat);
  // The router in float32: a choice between near-tied experts should not hang on the rounding of its logits.
  return {attended, normed, route(apply(layer.router, normed, key_at(pass, n, kRouter)), config_.num_experts_per_tok)};
}

at::Tensor Transformer::finish_layer(std::int64_t n, const at::Tensor& x, const at::Tensor& out,
                                     const Pass& pass) const {
  ExpertInput input = expert_input(n, x, out, pass);
  if (pass.router_load != nullptr) pass.router_load->add(n, input.routing.indices);
  const ExpertsOptions options{config_.swiglu_limit, key_at(pass, n, kExperts), pass.only_for_backward,
                               pass.experts_on_grid};
  // What is done with goes before the experts need memory.
  const at::Tensor normed = std::exchange(input.normed, at::Tensor()).to(dtype_);
  return apply(layers_[static_cast<std::size_t>(n)].experts, normed, input.routing, options).add_(input.attended);
}

at::Tensor Transformer::run_layer(std::int64_t n, const at::Tensor& x, const Pass& pass, KeyValue* key_value) const {
  const Layer& layer = layers_[static_cast<std::size_t>(n)];
  const Projected projected = project(n, x, pass);
  if (key_value != nullptr) *key_value = {projected.k, projected.v};
  const at::Tensor out = attention(projected.q, projected.k, projected.v, layer.sinks.to(at::kFloat), pass.layout,
                                   layer.sliding, attention_scale());
  return finish_layer(n, x, out.reshape({x.size(0), config_.query_size()}), pass);
}

}  // namespace ossature
