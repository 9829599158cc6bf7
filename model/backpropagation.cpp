#include "model/backpropagation.h"

#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/head.h"

namespace ossature {
namespace {

at::Tensor token_tensor(std::span<const std::int32_t> tokens, at::Device device) {
  at::Tensor ids = at::empty({static_cast<std::int64_t>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.data_ptr<std::int64_t>());
  return ids.to(device);
}

/// What the layers of a pass over `rows` share.
struct Shared {
  SequenceLayout layout;
  RopeTable rope;

  Shared(const Transformer& transformer, const TokenRows& rows)
      : layout(rows.sample_offsets, transformer.config().sliding_window),
        rope(rope_table(transformer.config(), layout.positions().to(transformer.device()))) {}
};

bool trains(const LowRank& pair) {
  return pair.defined() && pair.a.requires_grad();
}

bool trains(const Layer& layer) {
  for (const Linear* linear : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.router}) {
    if (linear->weight.requires_grad() || trains(linear->low_rank)) return true;
  }
  const ExpertWeight& weight = layer.experts.gate_up;
  return trains(layer.experts.gate_up_low_rank) || trains(layer.experts.down_low_rank) ||
         (!weight.is_packed() && weight.dense.requires_grad());
}

}  // namespace

LossSum backpropagate(const Transformer& transformer, const TokenRows& rows, const BackpropagationOptions& options) {
  const Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
  LossSum sum{0.0, targets.weight_sum, targets.rows.size(0)};
  if (sum.num_learned == 0) return sum;
  const Shared shared(transformer, rows);
  const at::Tensor tokens = token_tensor(rows.tokens, transformer.device());
  const auto num_layers = static_cast<std::int64_t>(transformer.layers().size());
  const bool trains_embedding = transformer.embed_tokens.requires_grad();
  // Below the first layer that trains, no gradient is needed at all.
  std::int64_t first_trained = 0;
  while (!trains_embedding && first_trained < num_layers &&
         !trains(transformer.layers()[static_cast<std::size_t>(first_trained)])) {
    ++first_trained;
  }

  const Pass pass{shared.layout, shared.rope, options.dropout_seed, false, options.experts_on_grid};
  std::vector<at::Tensor> inputs(static_cast<std::size_t>(num_layers));
  std::vector<at::Tensor> outputs(static_cast<std::size_t>(num_layers));  // with their graphs, unless recomputed
  const auto input_of = [&](std::int64_t n, const at::Tensor& x) {
    at::Tensor input = x.detach();
    // The lowest layer's own input needs no gradient unless the embedding is trained.
    input.set_requires_grad(n > first_trained || trains_embedding);
    return input;
  };

  at::Tensor x;
  {
    at::NoGradGuard no_grad;
    x = transformer.embed(tokens);
  }
  for (std::int64_t n = 0; n < num_layers; ++n) {
    const auto i = static_cast<std::size_t>(n);
    const bool keeps_graph = n >= first_trained && !options.recompute;
    if (n >= first_trained) inputs[i] = input_of(n, x);
    at::AutoGradMode mode(keeps_graph);
    at::Tensor output = transformer.run_layer(n, n >= first_trained ? inputs[i] : x, pass);
    x = output.detach();
    if (keeps_graph) outputs[i] = std::move(output);
  }

  HeadLoss head = head_loss(transformer, x, targets);
  x.reset();
  sum.loss = head.loss_sum;

  const Pass again{shared.layout, shared.rope, options.dropout_seed, true, options.experts_on_grid};
  at::Tensor grad = std::move(head.grad_hidden);
  for (std::int64_t n = num_layers - 1; n >= first_trained; --n) {
    const auto i = static_cast<std::size_t>(n);
    at::Tensor output = std::move(outputs[i]);
    if (options.recompute) {
      at::AutoGradMode mode(true);
      output = transformer.run_layer(n, inputs[i], again);
    }
    torch::autograd::backward({output}, {grad});
    output.reset();
    grad = inputs[i].grad();
    inputs[i].reset();
  }
  if (trains_embedding) {
    at::AutoGradMode mode(true);
    torch::autograd::backward({transformer.embed(tokens)}, {grad});
  }
  return sum;
}

at::Tensor forward(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid) {
  at::NoGradGuard no_grad;
  const Shared shared(transformer, rows);
  const Pass pass{shared.layout, shared.rope, 0, false, experts_on_grid};
  at::Tensor x = transformer.embed(token_tensor(rows.tokens, transformer.device()));
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
