// The gpt-oss network over a flat token axis. Weights are used where they lie (mapped files); a low-rank pair may be
// attached to each projection. Shapes: T tokens, H hidden, V vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/config.h"
#include "model/layers/attention.h"
#include "model/layers/experts.h"
#include "model/layers/linear.h"
#include "model/layers/rope.h"
#include "model/network/router_load.h"

namespace ossature {

struct Layer {
  bool sliding = false;
  at::Tensor input_layernorm;  // [H]
  Linear q_proj, k_proj, v_proj, o_proj;
  at::Tensor sinks;                     // [num_attention_heads]
  at::Tensor post_attention_layernorm;  // [H]
  Linear router;
  Experts experts;
};

/// What all layers of one forward pass share.
struct Pass {
  const SequenceLayout& layout;
  const RopeTable& rope;
  std::uint64_t dropout_seed = 0;     // 0: no dropout
  bool only_for_backward = false;     // see ExpertsOptions
  bool experts_on_grid = false;       // see ExpertsOptions
  RouterLoad* router_load = nullptr;  // counts the pass, if given
};

/// A key that attention heads have computed: what a decoder keeps of past tokens.
struct KeyValue {
  at::Tensor key;    // [T, num_key_value_heads, head_dim], rotated
  at::Tensor value;  // the same
};

class LayerPager;

/// The first touch of a page makes resident all that the page cache holds in one piece around it, up to 2 MiB: a few
/// hundred tokens' rows would be the whole of a vocabulary's gigabyte.
inline constexpr std::int64_t kMappedEmbeddingBytes = 64 << 20;

class Transformer {
 public:
  /// Takes the tensors of `checkpoint` without copying them (on another device than the CPU they are copied there,
  /// experts still packed). `dtype` is that of activations and products: bfloat16 or float32.
  Transformer(const Checkpoint& checkpoint, at::ScalarType dtype, at::Device device = at::kCPU);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] at::ScalarType dtype() const { return dtype_; }
  [[nodiscard]] at::Device device() const { return device_; }
  [[nodiscard]] const std::vector<Layer>& layers() const { return layers_; }
  /// For attaching adapters and for replacing frozen weights by trained ones.
  [[nodiscard]] std::vector<Layer>& layers() { return layers_; }

  at::Tensor embed_tokens;  // [V, H]
  at::Tensor norm;          // [H]
  at::Tensor lm_head;       // [V, H]

  /// tokens int64 [T] -> [T, H]. Differentiable where embed_tokens requires it. Of a mapped embedding that is larger,
  /// about kMappedEmbeddingBytes are resident meanwhile and none of it afterwards.
  [[nodiscard]] at::Tensor embed(const at::Tensor& tokens) const;

  /// From now on weights are read as they are used (layer_pager.h, `cached_layers` too): by whatever goes through the
  /// layers and says so to enter(). Nothing on another device than the CPU.
  void read_as_used(std::int64_t cached_layers);
  /// Layer `n` is about to be used, and after it `next`; `next` == `n`: none.
  void enter(std::int64_t n, std::int64_t next) const;

  /// Runs layer `n` on x [T, H]. Differentiable. `key_value`, when given, receives the layer's keys and values.
  [[nodiscard]] at::Tensor run_layer(std::int64_t n, const at::Tensor& x, const Pass& pass,
                                     KeyValue* key_value = nullptr) const;

  /// What the experts of a layer get.
  struct ExpertInput {
    at::Tensor attended;  // [T, H] float32, to which their result is added
    at::Tensor normed;    // [T, H] float32
    Routing routing;
  };
  /// out [T, Hq * D] is attention's result, x the layer's input.
  [[nodiscard]] ExpertInput expert_input(std::int64_t n, const at::Tensor& x, const at::Tensor& out,
                                         const Pass& pass) const;

  /// The part of a layer after its attention: out [T, Hq * D] is attention's result, x the layer's input.
  [[nodiscard]] at::Tensor finish_layer(std::int64_t n, const at::Tensor& x, const at::Tensor& out,
                                        const Pass& pass) const;

  /// Queries, keys and values [T, heads, head_dim] of layer `n`, rotated.
  struct Projected {
    at::Tensor q, k, v;
  };
  [[nodiscard]] Projected project(std::int64_t n, const at::Tensor& x, const Pass& pass) const;

  /// softmax scale of q.k: 1 / sqrt(head_dim).
  [[nodiscard]] double attention_scale() const;

 private:
  ModelConfig config_;
  at::ScalarType dtype_;
  at::Device device_;
  std::vector<Layer> layers_;
  Checkpoint checkpoint_;
  std::shared_ptr<LayerPager> pager_;
  const void* mapped_embedding_ = nullptr;  // the rows of the checkpoint's file, if they are many
};

}  // namespace ossature
