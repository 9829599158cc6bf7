#include "model/backpropagation.h"

#include <algorithm>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/placed_rows.h"

namespace ossature {
namespace {

/// A micro-batch on its way through the layers.
struct MicroBatch {
  std::size_t index;  // among those that were given
  TokenRows rows;
  Targets targets;
  PlacedRows placed;
  at::Tensor x;                     // output of the layer that ran last
  at::Tensor grad;                  // of the loss wrt it, on the way back
  std::vector<at::Tensor> inputs;   // of each layer that trains
  std::vector<at::Tensor> outputs;  // with their graphs, of the layers that do not run again

  MicroBatch(const Transformer& transformer, std::size_t its_index, const TokenRows& its_rows, Targets its_targets)
      : index(its_index),
        rows(its_rows),
        targets(std::move(its_targets)),
        placed(transformer, rows),
        inputs(transformer.layers().size()),
        outputs(transformer.layers().size()) {}

  [[nodiscard]] Pass forward_pass(const BackpropagationOptions& options) const {
    return {placed.layout, placed.rope, rows.dropout_seed, false, options.experts_on_grid, options.router_load};
  }
  /// Of a layer that runs again: the router's load has its tokens already.
  [[nodiscard]] Pass second_pass(const BackpropagationOptions& options) const {
    return {placed.layout, placed.rope, rows.dropout_seed, true, options.experts_on_grid};
  }
};

bool trains(const LowRank& pair) {
  return pair.defined() && pair.a.requires_grad();
}

bool trains(const Layer& layer) {
  for (const Linear* linear : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.router}) {
    if (linear->weight.requires_grad() || linear->bias.requires_grad() || trains(linear->low_rank)) return true;
  }
  for (const at::Tensor* tensor : {&layer.input_layernorm, &layer.post_attention_layernorm, &layer.sinks,
                                   &layer.experts.gate_up_bias, &layer.experts.down_bias}) {
    if (tensor->requires_grad()) return true;
  }
  const ExpertWeight& weight = layer.experts.gate_up;
  return trains(layer.experts.gate_up_low_rank) || trains(layer.experts.down_low_rank) ||
         (!weight.is_packed() && weight.dense.requires_grad());
}

}  // namespace

LossSum backpropagate(const Transformer& transformer, const TokenRows& rows, const BackpropagationOptions& options) {
  return backpropagate(transformer, std::span(&rows, 1), options);
}

LossSum backpropagate(const Transformer& transformer, std::span<const TokenRows> micro_batches,
                      const BackpropagationOptions& options) {
  LossSum sum;
  std::vector<MicroBatch> batches;
  batches.reserve(micro_batches.size());  // layers keep references to what the micro-batches share
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    const TokenRows& rows = micro_batches[i];
    Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
    if (targets.rows.size(0) == 0) continue;
    sum.weight += targets.weight_sum;
    sum.num_learned += targets.rows.size(0);
    batches.emplace_back(transformer, i, rows, std::move(targets));
  }
  if (batches.empty()) return sum;
  const auto num_layers = static_cast<std::int64_t>(transformer.layers().size());
  const bool trains_embedding = transformer.embed_tokens.requires_grad();
  // Below the first layer that trains, no gradient is needed at all.
  std::int64_t first_trained = 0;
  while (!trains_embedding && first_trained < num_layers &&
         !trains(transformer.layers()[static_cast<std::size_t>(first_trained)])) {
    ++first_trained;
  }
  const auto first_kept = std::max(first_trained, num_layers - std::min(options.kept_layers, num_layers));
  const auto enter = [&](std::int64_t n, std::int64_t next) {
    if (options.pager != nullptr) options.pager->enter(n, std::clamp<std::int64_t>(next, 0, num_layers - 1));
  };

  for (MicroBatch& batch : batches) {
    at::NoGradGuard no_grad;
    batch.x = transformer.embed(batch.placed.tokens);
  }
  for (std::int64_t n = 0; n < num_layers; ++n) {
    const auto i = static_cast<std::size_t>(n);
    enter(n, n + 1);
    for (MicroBatch& batch : batches) {
      at::Tensor input = batch.x.detach();
      if (n >= first_trained) {
        // The lowest layer's own input needs no gradient unless the embedding is trained.
        input.set_requires_grad(n > first_trained || trains_embedding);
        batch.inputs[i] = input;
      }
      at::AutoGradMode mode(n >= first_kept);
      at::Tensor output = transformer.run_layer(n, input, batch.forward_pass(options));
      batch.x = output.detach();
      if (n >= first_kept) batch.outputs[i] = std::move(output);
    }
  }

  for (MicroBatch& batch : batches) {
    HeadLoss head = options.head ? options.head(batch.index, batch.x, batch.targets)
                                 : head_loss(transformer, batch.x, batch.targets);
    batch.x.reset();
    batch.grad = std::move(head.grad_hidden);
    sum.loss += head.loss_sum;
  }

  for (std::int64_t n = num_layers - 1; n >= first_trained; --n) {
    const auto i = static_cast<std::size_t>(n);
    enter(n, n > first_trained ? n - 1 : n);
    for (MicroBatch& batch : batches) {
      at::Tensor output = std::move(batch.outputs[i]);
      if (n < first_kept) {
        at::AutoGradMode mode(true);
        output = transformer.run_layer(n, batch.inputs[i], batch.second_pass(options));
      }
      torch::autograd::backward({output}, {batch.grad});
      output.reset();
      batch.grad = batch.inputs[i].grad();
      batch.inputs[i].reset();
    }
  }
  if (trains_embedding) {
    at::AutoGradMode mode(true);
    for (const MicroBatch& batch : batches) {
      torch::autograd::backward({transformer.embed(batch.placed.tokens)}, {batch.grad});
    }
  }
  return sum;
}

at::Tensor forward(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid) {
  at::NoGradGuard no_grad;
  const PlacedRows placed(transformer, rows);
  const Pass pass{placed.layout, placed.rope, 0, false, experts_on_grid};
  at::Tensor x = transformer.embed(placed.tokens);
  for (std::int64_t n = 0; n < static_cast<std::int64_t>(transformer.layers().size()); ++n) {
    x = transformer.run_layer(n, x, pass);
  }
  return x;
}

LossSum evaluate(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid) {
  const Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
  LossSum sum{0.0, targets.weight_sum, targets.rows.size(0)};
  if (sum.num_learned == 0) return sum;
  const at::Tensor found = head_log_probs(transformer, forward(transformer, rows, experts_on_grid), targets);
  sum.loss = -(found * targets.weights).to(at::kDouble).sum().item<double>();
  return sum;
}

at::Tensor log_probs(const Transformer& transformer, const TokenRows& rows) {
  const std::vector<float> ones(rows.tokens.size(), 1.0f);
  const Targets targets = targets_of(rows.tokens, ones, rows.sample_offsets);
  at::Tensor result =
      at::full({static_cast<std::int64_t>(rows.tokens.size())}, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
  if (targets.rows.size(0) > 0) {
    result.index_copy_(0, targets.rows + 1, head_log_probs(transformer, forward(transformer, rows), targets));
  }
  return result;
}

}  // namespace ossature
