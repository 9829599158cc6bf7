// Forward and backward through the whole network, one layer at a time: a layer's graph exists only while that layer is
// worked on, so the memory of activations is one layer's, and of the others only their inputs are kept ([T, H] each).
// With recomputation a layer runs again in the backward pass; without, its graph is kept from the forward pass. Both
// give the same bits.
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "model/transformer.h"

namespace ossature {

/// A micro-batch on the flat token axis. Sizes: tokens and loss_weights [T]; sample_offsets [S + 1], first 0, last T.
struct TokenRows {
  std::span<const std::int32_t> tokens;
  std::span<const float> loss_weights;  // weight of each token as a target
  std::span<const std::int64_t> sample_offsets;
};

struct BackpropagationOptions {
  bool recompute = true;
  std::uint64_t dropout_seed = 0;  // 0: no dropout
  bool experts_on_grid = false;    // see ExpertsOptions
};

struct LossSum {
  double loss = 0.0;    // sum of weight * -log p
  double weight = 0.0;  // sum of weights
  std::int64_t num_learned = 0;
};

/// Adds the gradient of the loss *sum* (not mean) to every parameter that requires one; dividing by the sum of weights
/// of all micro-batches of a step is the caller's, so accumulation and packing never change the result.
LossSum backpropagate(const Transformer& transformer, const TokenRows& rows, const BackpropagationOptions& options);

/// The last layer's output, [T, H]. Without gradients.
[[nodiscard]] at::Tensor forward(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid = false);

/// The loss sum without gradients.
[[nodiscard]] LossSum evaluate(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid = false);

/// log p(token | its sample so far) of every token, float32 [T]; NaN for the first of each sample. Loss weights are not
/// looked at.
[[nodiscard]] at::Tensor log_probs(const Transformer& transformer, const TokenRows& rows);

}  // namespace ossature
