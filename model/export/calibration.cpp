#include "model/export/calibration.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/layers/experts_kernels.h"
#include "model/layers/swiglu.h"
#include "model/network/placed_rows.h"

namespace ossature {

struct CalibrationPass::Batch {
  PlacedRows placed;
  at::Tensor x;

  Batch(const Transformer& transformer, const TokenRows& rows)
      : placed(transformer, rows), x(transformer.embed(placed.tokens)) {}
};

CalibrationPass::CalibrationPass(const Transformer& transformer, std::span<const TokenRows> batches)
    : transformer_(transformer) {
  at::NoGradGuard no_grad;
  for (const TokenRows& rows : batches) batches_.push_back(std::make_unique<Batch>(transformer, rows));
}

CalibrationPass::~CalibrationPass() = default;

std::int64_t CalibrationPass::num_tokens() const {
  std::int64_t sum = 0;
  for (const auto& batch : batches_) sum += batch->placed.layout.num_tokens();
  return sum;
}

const at::Tensor& CalibrationPass::hidden(std::size_t batch) const {
  return batches_[batch]->x;
}

void CalibrationPass::run_layer(MomentSums* gate_up, MomentSums* down,
                                const std::function<void(std::int64_t)>& after_batch) {
  at::NoGradGuard no_grad;
  const ModelConfig& config = transformer_.config();
  const auto n = layer_;
  transformer_.enter(n, std::min(n + 1, config.num_hidden_layers - 1));
  const Layer& layer = transformer_.layers()[static_cast<std::size_t>(n)];
  const LowRank &first_pair = layer.experts.gate_up_low_rank, &second_pair = layer.experts.down_low_rank;
  for (const auto& batch : batches_) {
    const Pass pass{batch->placed.layout, batch->placed.rope};
    const auto [q, k, v] = transformer_.project(n, batch->x, pass);
    const at::Tensor attended = attention(q, k, v, layer.sinks.to(at::kFloat), batch->placed.layout, layer.sliding,
                                          transformer_.attention_scale());
    const auto input =
        transformer_.expert_input(n, batch->x, attended.reshape({batch->x.size(0), config.query_size()}), pass);
    const at::Tensor x = input.normed.to(transformer_.dtype());
    const Assignments assigned = assign(input.routing.indices, config.num_local_experts);
    const at::Tensor p = input.routing.weights.reshape(-1).index_select(0, assigned.order);
    const ExpertsPass experts{
        layer.experts,       assigned,    x, p, first_pair.a, first_pair.b, second_pair.a, second_pair.b,
        config.swiglu_limit, DropoutKey{}};
    ExpertsKept kept;
    const at::Tensor out = (takes_tiles(layer.experts, x) ? tiled_forward : serial_forward)(experts, true, &kept);
    if (gate_up != nullptr) gate_up->add(x.index_select(0, assigned.tokens), p, assigned);
    if (down != nullptr) {
      down->add(swiglu_forward(kept.u.narrow(0, 0, p.size(0)), config.swiglu_limit), p, assigned);
    }
    // In place: a new tensor a batch would lie between what the pass frees, and keep it from the next batch.
    at::add_out(batch->x, input.attended, out);
    if (after_batch) after_batch(batch->placed.layout.num_tokens());
  }
  ++layer_;
}

}  // namespace ossature
