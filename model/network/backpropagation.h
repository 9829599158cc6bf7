// Forward and backward through the whole network, one layer at a time: of each layer its input is kept ([T, H]), and of
// as many layers as memory allows all that their backward needs; the others run again in the backward pass. Both give
// the same bits, for micro-batches of 16 tokens or more (fewer take vector_product.h's way where no gradient is
// recorded). Several micro-batches may go through each layer before the next one is looked at: the weights of a
// model that is larger than memory are then read once a direction and not once a micro-batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>

#include <ATen/core/Tensor.h>

#include "model/network/head.h"
#include "model/network/stage.h"
#include "model/network/transformer.h"

namespace ossature {

/// A micro-batch on the flat token axis. Sizes: tokens and loss_weights [T]; sample_offsets [S + 1], first 0, last T.
struct TokenRows {
  std::span<const std::int32_t> tokens;
  std::span<const float> loss_weights;  // weight of each token as a target
  std::span<const std::int64_t> sample_offsets;
  std::uint64_t dropout_seed = 0;  // 0: no dropout
};

inline constexpr std::int64_t kAllLayers = std::numeric_limits<std::int64_t>::max();

struct BackpropagationOptions {
  std::int64_t kept_layers = 0;       // of the layers that train, the last ones, which do not run again
  const Stage* stage = nullptr;       // the layers to compute, where ranks share them; its kept_layers are its own
  bool experts_on_grid = false;       // see ExpertsOptions
  RouterLoad* router_load = nullptr;  // counts each token once in each layer, if given
  // Hears of each layer that trains when the gradients of its parameters are complete, the last layer first.
  std::function<void(std::int64_t)> on_layer_done = {};
  // If given, the loss at the head instead of -log p of the targets: of micro-batch `i`, from the last layer's output.
  std::function<HeadLoss(std::size_t i, const at::Tensor& hidden, const Targets& targets)> head = {};
};

struct LossSum {
  double loss = 0.0;    // sum of weight * -log p, or of the head's loss
  double weight = 0.0;  // sum of weights
  std::int64_t num_learned = 0;
};

/// Adds the gradient of the loss *sum* (not mean) to every parameter that requires one; dividing by the sum of weights
/// of all micro-batches of a step is the caller's, so accumulation and packing never change the result.
/// Micro-batches that go through the layers together give the bits that they give one after another.
///
/// In a stage of a pipeline each micro-batch goes to the next stage as soon as it is through, and its gradient to the
/// stage before; all stages are given the same micro-batches. The last stage alone has the loss sum; those of the
/// others are zero. Gradients are those of the stage's own parameters.
LossSum backpropagate(const Transformer& transformer, std::span<const TokenRows> micro_batches,
                      const BackpropagationOptions& options);
LossSum backpropagate(const Transformer& transformer, const TokenRows& rows, const BackpropagationOptions& options);

/// The last layer's output, or the stage's, [T, H]. Without gradients.
[[nodiscard]] at::Tensor forward(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid = false,
                                 const Stage* stage = nullptr);

/// The loss sum without gradients. In a stage as with backpropagate().
[[nodiscard]] LossSum evaluate(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid = false,
                               const Stage* stage = nullptr);

/// log p(token | its sample so far) of every token, float32 [T]; NaN for the first of each sample. Loss weights are not
/// looked at.
[[nodiscard]] at::Tensor log_probs(const Transformer& transformer, const TokenRows& rows);

}  // namespace ossature
