#include "model/network/comparison.h"

#include <algorithm>
#include <numeric>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/network/distillation.h"
#include "model/network/placed_rows.h"

namespace ossature {
namespace {

/// Predictions whose logits are held at once, 3 V float32 each.
constexpr std::int64_t kRowsAtOnce = 64;

double squared(const at::Tensor& difference) {
  return difference.square().sum(at::kDouble).item<double>();
}

}  // namespace

ComparisonSums& ComparisonSums::operator+=(const ComparisonSums& other) {
  weight += other.weight;
  num_learned += other.num_learned;
  loss_base += other.loss_base;
  loss_adapter += other.loss_adapter;
  loss_export += other.loss_export;
  kl_adapter_base += other.kl_adapter_base;
  kl_adapter_export += other.kl_adapter_export;
  top1_agreement += other.top1_agreement;
  return *this;
}

struct ModelComparison::Batch {
  PlacedRows placed;
  Targets targets;
  std::vector<std::int64_t> offsets;
  at::Tensor base, adapter, exported;  // outputs of the layer that ran last

  Batch(const ModelComparison& models, const TokenRows& rows)
      : placed(models.base_, rows),
        targets(targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets)),
        offsets(rows.sample_offsets.begin(), rows.sample_offsets.end()),
        base(models.base_.embed(placed.tokens)),
        adapter(models.adapter_.embed(placed.tokens)),
        exported(models.exported_.embed(placed.tokens)) {}
};

ModelComparison::ModelComparison(const Transformer& base, const Transformer& adapter, const Transformer& exported,
                                 bool by_layer)
    : base_(base), adapter_(adapter), exported_(exported) {
  if (by_layer) layers_.resize(base.layers().size());
}

void ModelComparison::add(std::span<const TokenRows> group, const std::function<void(std::int64_t)>& progress) {
  at::NoGradGuard no_grad;
  std::vector<Batch> batches;
  batches.reserve(group.size());  // a pass refers to its batch
  for (const TokenRows& rows : group) batches.emplace_back(*this, rows);
  const auto num_layers = std::ssize(base_.layers());
  for (std::int64_t n = 0; n < num_layers; ++n) {
    for (Batch& batch : batches) run_layer(n, batch);
    if (progress) progress(n + 1);
  }
  for (Batch& batch : batches) run_head(batch);
  if (progress) progress(num_layers + 1);
}

void ModelComparison::run_layer(std::int64_t n, Batch& batch) {
  const Pass pass{batch.placed.layout, batch.placed.rope};
  const at::Tensor input = batch.adapter;
  batch.base = base_.run_layer(n, batch.base, pass);
  batch.adapter = adapter_.run_layer(n, input, pass);
  batch.exported = exported_.run_layer(n, batch.exported, pass);
  if (layers_.empty()) return;
  const at::Tensor adapter = batch.adapter.to(at::kFloat);
  const at::Tensor base = base_.run_layer(n, input, pass).to(at::kFloat);
  const at::Tensor exported = exported_.run_layer(n, input, pass).to(at::kFloat);
  LayerEffect& effect = layers_[static_cast<std::size_t>(n)];
  effect.wanted += squared(adapter - base);
  effect.missed += squared(exported - adapter);
  effect.along += ((exported - base) * (adapter - base)).sum(at::kDouble).item<double>();
}

void ModelComparison::run_head(Batch& batch) {
  const Targets& targets = batch.targets;
  const std::int64_t count = targets.rows.size(0);
  const auto first = samples_.size();
  std::vector<std::int64_t> sample_of(static_cast<std::size_t>(batch.offsets.back()));
  for (std::size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    std::fill(sample_of.begin() + batch.offsets[s], sample_of.begin() + batch.offsets[s + 1],
              static_cast<std::int64_t>(s));
  }
  samples_.resize(first + batch.offsets.size() - 1);
  for (std::int64_t begin = 0; begin < count; begin += kRowsAtOnce) {
    const auto n = std::min(kRowsAtOnce, count - begin);
    const at::Tensor rows = targets.rows.narrow(0, begin, n);
    const auto log_probs = [&](const Transformer& transformer, const at::Tensor& hidden) {
      return at::log_softmax(head_logits(transformer, hidden.index_select(0, rows.to(hidden.device()))).cpu(), -1);
    };
    const at::Tensor base = log_probs(base_, batch.base), adapter = log_probs(adapter_, batch.adapter),
                     exported = log_probs(exported_, batch.exported);
    const at::Tensor target = targets.targets.narrow(0, begin, n).cpu().unsqueeze(1);
    const auto loss = [&](const at::Tensor& found) { return -found.gather(1, target).squeeze(1).to(at::kDouble); };
    const at::Tensor columns =
        at::stack({loss(base), loss(adapter), loss(exported), kl_divergence(adapter, base),
                   kl_divergence(adapter, exported), (adapter.argmax(-1) == exported.argmax(-1)).to(at::kDouble)},
                  1);
    const auto value = columns.accessor<double, 2>();
    const at::Tensor cpu_rows = rows.cpu();
    const std::int64_t* row = cpu_rows.const_data_ptr<std::int64_t>();
    const float* weights = targets.weights.const_data_ptr<float>() + begin;
    for (std::int64_t i = 0; i < n; ++i) {
      const double w = weights[i];
      samples_[first + static_cast<std::size_t>(sample_of[static_cast<std::size_t>(row[i])])] +=
          {w, 1, w * value[i][0], w * value[i][1], w * value[i][2], w * value[i][3], w * value[i][4], w * value[i][5]};
    }
  }
  std::erase_if(samples_, [](const ComparisonSums& sample) { return sample.num_learned == 0; });
}

ComparisonSums ModelComparison::total() const {
  return std::accumulate(samples_.begin(), samples_.end(), ComparisonSums{},
                         [](ComparisonSums sum, const ComparisonSums& sample) { return sum += sample; });
}

}  // namespace ossature
