// Base, base + adapter and an export of the two, side by side on the same tokens: losses, how far their predictions are
// apart, and how much of what the adapter changed the export has. All three go through a layer before the next is
// looked at, so each file is read once for a group of batches however small memory is. Shapes: V vocabulary.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/network/backpropagation.h"
#include "model/network/transformer.h"

namespace ossature {

/// Weighted sums over predictions of learned tokens; natural logarithms.
struct ComparisonSums {
  double weight = 0.0;
  std::int64_t num_learned = 0;
  double loss_base = 0.0, loss_adapter = 0.0, loss_export = 0.0;
  double kl_adapter_base = 0.0;    // KL(adapter || base), over the whole vocabulary
  double kl_adapter_export = 0.0;  // KL(adapter || export)
  double top1_agreement = 0.0;     // weight of predictions whose likeliest token is the adapter's in the export too

  ComparisonSums& operator+=(const ComparisonSums& other);
};

/// What a layer of the export does to the adapter's own inputs of that layer, as squared norms over all tokens.
struct LayerEffect {
  double wanted = 0.0;  // |adapter - base|^2
  double missed = 0.0;  // |export - adapter|^2
  double along = 0.0;   // <export - base, adapter - base>
};

class ModelComparison {
 public:
  /// The models must outlive this and be of one shape. `by_layer` costs two more passes.
  ModelComparison(const Transformer& base, const Transformer& adapter, const Transformer& exported, bool by_layer);

  /// Adds a group of batches. Holds 3 x 2 x hidden_size bytes a token of the group (in bfloat16). `progress`, when
  /// given, hears how many layers of the group are done, the head counting as one.
  void add(std::span<const TokenRows> group, const std::function<void(std::int64_t)>& progress = {});

  /// Of each sample with a learned token, in order.
  [[nodiscard]] const std::vector<ComparisonSums>& samples() const { return samples_; }
  [[nodiscard]] ComparisonSums total() const;
  /// Of each layer; empty unless asked for.
  [[nodiscard]] const std::vector<LayerEffect>& layers() const { return layers_; }

 private:
  struct Batch;
  void run_layer(std::int64_t n, Batch& batch);
  void run_head(Batch& batch);

  const Transformer& base_;
  const Transformer& adapter_;
  const Transformer& exported_;
  std::vector<ComparisonSums> samples_;
  std::vector<LayerEffect> layers_;
};

}  // namespace ossature
