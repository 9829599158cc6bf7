#include "model/network/backpropagation.h"

#include <algorithm>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/network/placed_rows.h"

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

Stage whole(const Transformer& transformer) {
  return {0, static_cast<std::int64_t>(transformer.layers().size())};
}

/// What a stage does with a micro-batch, piece by piece.
class LayerWork {
 public:
  LayerWork(const Transformer& transformer, const Stage& stage, const BackpropagationOptions& options)
      : transformer_(transformer),
        stage_(stage),
        options_(options),
        trains_embedding_(transformer.embed_tokens.requires_grad()) {
    // Below the first layer that trains, no gradient is needed at all.
    const auto num_layers = static_cast<std::int64_t>(transformer.layers().size());
    while (!trains_embedding_ && lowest_trained_ < num_layers &&
           !trains(transformer.layers()[static_cast<std::size_t>(lowest_trained_)])) {
      ++lowest_trained_;
    }
    first_trained_ = std::max(lowest_trained_, stage.first_layer);
    first_kept_ =
        std::max(first_trained_, stage.end_layer - std::min(options.kept_layers, stage.end_layer - stage.first_layer));
  }

  /// Of this stage; its end where none of its layers trains.
  [[nodiscard]] std::int64_t first_trained() const { return first_trained_; }

  void enter(std::int64_t n, std::int64_t next) const {
    transformer_.enter(n, std::clamp(next, stage_.first_layer, stage_.end_layer - 1));
  }

  /// Makes room for what will come from there: outputs of the stage before, or gradients from the one after.
  void receive(StageLink::Neighbour from, std::vector<MicroBatch>& batches) const {
    const bool from_before = from == StageLink::Neighbour::kBefore;
    if (from_before ? stage_.is_first : stage_.is_last || stage_.end_layer <= lowest_trained_) return;
    for (MicroBatch& batch : batches) {
      at::Tensor& room = from_before ? batch.x : batch.grad;
      room = at::empty({static_cast<std::int64_t>(batch.rows.tokens.size()), transformer_.config().hidden_size},
                       at::kFloat);
      stage_.link->begin_receive(from, room);
    }
  }

  void begin(MicroBatch& batch) const {
    if (!stage_.is_first) return stage_.link->wait_received(StageLink::Neighbour::kBefore);
    at::NoGradGuard no_grad;
    batch.x = transformer_.embed(batch.placed.tokens);
  }

  void run(std::int64_t n, MicroBatch& batch) const {
    const auto i = static_cast<std::size_t>(n);
    at::Tensor input = batch.x.detach();
    if (n >= first_trained_) {
      // The lowest layer's own input needs no gradient unless the embedding is trained.
      input.set_requires_grad(passes_back(n));
      batch.inputs[i] = input;
    }
    at::AutoGradMode mode(n >= first_kept_);
    at::Tensor output = transformer_.run_layer(n, input, batch.forward_pass(options_));
    batch.x = output.detach();
    if (n >= first_kept_) batch.outputs[i] = std::move(output);
  }

  /// The loss sum, of the last stage.
  [[nodiscard]] double end(MicroBatch& batch) const {
    if (!stage_.is_last) {
      stage_.link->send(StageLink::Neighbour::kAfter, batch.x);
      batch.x.reset();
      return 0.0;
    }
    HeadLoss head = options_.head ? options_.head(batch.index, batch.x, batch.targets)
                                  : head_loss(transformer_, batch.x, batch.targets);
    batch.x.reset();
    batch.grad = std::move(head.grad_hidden);
    return head.loss_sum;
  }

  /// Waits for the gradient of the next micro-batch, unless this stage makes it.
  void begin_back() const {
    if (!stage_.is_last && stage_.end_layer > lowest_trained_) stage_.link->wait_received(StageLink::Neighbour::kAfter);
  }

  void run_back(std::int64_t n, MicroBatch& batch) const {
    const auto i = static_cast<std::size_t>(n);
    at::Tensor output = std::move(batch.outputs[i]);
    if (n < first_kept_) {
      at::AutoGradMode mode(true);
      output = transformer_.run_layer(n, batch.inputs[i], batch.second_pass(options_));
    }
    torch::autograd::backward({output}, {batch.grad});
    output.reset();
    batch.grad = batch.inputs[i].grad();
    batch.inputs[i].reset();
  }

  void end_back(MicroBatch& batch) const {
    if (!stage_.is_first) {
      if (passes_back(stage_.first_layer)) stage_.link->send(StageLink::Neighbour::kBefore, batch.grad.contiguous());
      batch.grad.reset();
    } else if (trains_embedding_) {
      at::AutoGradMode mode(true);
      torch::autograd::backward({transformer_.embed(batch.placed.tokens)}, {batch.grad});
    }
  }

 private:
  /// Whether the gradient of the input of layer `n` is needed.
  [[nodiscard]] bool passes_back(std::int64_t n) const { return n > lowest_trained_ || trains_embedding_; }

  const Transformer& transformer_;
  const Stage& stage_;
  const BackpropagationOptions& options_;
  const bool trains_embedding_;
  std::int64_t lowest_trained_ = 0;  // of all stages
  std::int64_t first_trained_ = 0, first_kept_ = 0;
};

}  // namespace

LossSum backpropagate(const Transformer& transformer, const TokenRows& rows, const BackpropagationOptions& options) {
  return backpropagate(transformer, std::span(&rows, 1), options);
}

LossSum backpropagate(const Transformer& transformer, std::span<const TokenRows> micro_batches,
                      const BackpropagationOptions& options) {
  LossSum sum;
  std::vector<MicroBatch> batches;
  batches.reserve(micro_batches.size());  // layers keep references to what the micro-batches share
  const Stage stage = options.stage != nullptr ? *options.stage : whole(transformer);
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    const TokenRows& rows = micro_batches[i];
    Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
    if (targets.rows.size(0) == 0) continue;
    if (stage.is_last) {
      sum.weight += targets.weight_sum;
      sum.num_learned += targets.rows.size(0);
    }
    batches.emplace_back(transformer, i, rows, std::move(targets));
  }
  if (batches.empty()) return sum;
  LayerWork work(transformer, stage, options);

  // In a pipeline one goes through at a time, so that the other stages need not wait for all.
  const std::size_t at_once = stage.link == nullptr ? batches.size() : 1;
  work.receive(StageLink::Neighbour::kBefore, batches);
  for (std::size_t first = 0; first < batches.size(); first += at_once) {
    const auto group = std::span(batches).subspan(first, at_once);
    for (MicroBatch& batch : group) work.begin(batch);
    for (std::int64_t n = stage.first_layer; n < stage.end_layer; ++n) {
      work.enter(n, n + 1);
      for (MicroBatch& batch : group) work.run(n, batch);
    }
    for (MicroBatch& batch : group) sum.loss += work.end(batch);
  }

  work.receive(StageLink::Neighbour::kAfter, batches);
  for (std::size_t first = 0; first < batches.size(); first += at_once) {
    const auto group = std::span(batches).subspan(first, at_once);
    const bool is_last = first + at_once == batches.size();
    work.begin_back();
    for (std::int64_t n = stage.end_layer - 1; n >= work.first_trained(); --n) {
      work.enter(n, n > work.first_trained() ? n - 1 : n);
      for (MicroBatch& batch : group) work.run_back(n, batch);
      if (is_last && options.on_layer_done) options.on_layer_done(n);
    }
    for (MicroBatch& batch : group) work.end_back(batch);
  }
  return sum;
}

at::Tensor forward(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid, const Stage* stage) {
  at::NoGradGuard no_grad;
  const Stage layers = stage != nullptr ? *stage : whole(transformer);
  const PlacedRows placed(transformer, rows);
  const Pass pass{placed.layout, placed.rope, 0, false, experts_on_grid};
  at::Tensor x;
  if (layers.is_first) {
    x = transformer.embed(placed.tokens);
  } else {
    x = at::empty({static_cast<std::int64_t>(rows.tokens.size()), transformer.config().hidden_size}, at::kFloat);
    layers.link->begin_receive(StageLink::Neighbour::kBefore, x);
    layers.link->wait_received(StageLink::Neighbour::kBefore);
  }
  for (std::int64_t n = layers.first_layer; n < layers.end_layer; ++n) {
    transformer.enter(n, std::min(n + 1, layers.end_layer - 1));
    x = transformer.run_layer(n, x, pass);
  }
  if (!layers.is_last) layers.link->send(StageLink::Neighbour::kAfter, x.contiguous());
  return x;
}

LossSum evaluate(const Transformer& transformer, const TokenRows& rows, bool experts_on_grid, const Stage* stage) {
  const Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
  if (targets.rows.size(0) == 0) return {};
  const at::Tensor x = forward(transformer, rows, experts_on_grid, stage);
  if (stage != nullptr && !stage->is_last) return {};
  LossSum sum{0.0, targets.weight_sum, targets.rows.size(0)};
  const at::Tensor found = head_log_probs(transformer, x, targets);
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
