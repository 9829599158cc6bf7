// A stage of a pipeline: the layers that one rank of several computes, and how it is linked to the ranks beside it.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/config.h"

namespace ossature {

/// Tensors go to a neighbour in the order in which they are sent. Sizes are known on both sides.
class StageLink {
 public:
  enum class Neighbour { kBefore, kAfter };

  virtual ~StageLink() = default;
  /// Returns at once; `tensor` (contiguous, on the CPU) must not be written to any more.
  virtual void send(Neighbour to, const at::Tensor& tensor) = 0;
  /// Lets the next tensor from there be written into `tensor` while other work is done.
  virtual void begin_receive(Neighbour from, const at::Tensor& tensor) = 0;
  /// Waits for the first of those from there that were not waited for.
  virtual void wait_received(Neighbour from) = 0;
};

/// Weights that a token's products use.
struct ActiveWeights {
  double layer = 0.0;  // one: attention, router, and the experts that a token takes
  double head = 0.0;
};
[[nodiscard]] ActiveWeights active_weights(const ModelConfig& model);

struct Stage {
  std::int64_t first_layer = 0, end_layer = 0;
  bool is_first = true;       // which embeds the tokens
  bool is_last = true;        // which has the head and the loss
  StageLink* link = nullptr;  // where there are others
};

/// Number `index` of `count` stages that take about as long as each other: the head counts as the layers that have as
/// many weights in use for a token. Each has a layer at least; count <= num_hidden_layers.
[[nodiscard]] Stage stage_of(const ModelConfig& config, std::int64_t count, std::int64_t index);

}  // namespace ossature
