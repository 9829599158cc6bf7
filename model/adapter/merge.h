// Base weight + scale * B A, in float32, and the sum of the pairs of several adapters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "model/adapter/lora.h"
#include "model/checkpoint/checkpoint.h"

namespace ossature {

/// The merged weight [O, I] of a projection that is not an expert's, float32. `base` as stored.
[[nodiscard]] at::Tensor merge(const at::Tensor& base, const LowRank& pair);

/// The pair of expert `e` alone, a [r, I] and b [O, r], of a pair of all experts; undefined if that is.
[[nodiscard]] LowRank expert_pair(const LowRank& pair, std::int64_t e);

/// The merged weight [O, I] of expert `e`, float32.
[[nodiscard]] at::Tensor merge_expert(const ExpertWeight& base, const LowRank& pair, std::int64_t e);

/// The name, transformers', of the tensor that a pair of `target` changes.
[[nodiscard]] std::string tensor_name(const LoraTarget& target);

/// What adapters, each times a weight, add to a base. The sum of pairs is a pair again: A one under the other, B beside
/// each other, so no delta is formed and nothing is lost.
class Merger {
 public:
  Merger() = default;
  explicit Merger(const Lora& adapter, double weight = 1.0) { add(adapter, weight); }

  /// The tensors are shared, not copied, where a target has one pair only.
  void add(const Lora& adapter, double weight = 1.0);

  /// The pair of a tensor by transformers' name, without dropout; undefined if no adapter targets it.
  [[nodiscard]] LowRank pair(const std::string& name) const;
  /// Every targeted tensor with its pair.
  [[nodiscard]] const std::map<std::string, LowRank>& pairs() const { return pairs_; }
  /// Sets the low-rank pair of every targeted weight of `transformer`.
  void attach(Transformer& transformer) const;

  /// Whether a pair of experts of layer `n` is targeted.
  [[nodiscard]] bool changes_experts(std::int64_t n) const;
  /// Of any layer.
  [[nodiscard]] bool changes_experts() const;

 private:
  struct Place {
    std::size_t layer;
    LoraSlot slot;
  };
  std::map<std::string, LowRank> pairs_;
  std::map<std::string, Place> places_;
};

}  // namespace ossature
