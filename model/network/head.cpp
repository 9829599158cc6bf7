#include "model/network/head.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/layers/cross_entropy.h"
#include "model/layers/linear_tiled.h"
#include "model/layers/rms_norm.h"
#include "model/layers/vector_product.h"

namespace ossature {
namespace {

/// Logits held at once: enough rows for products at full speed, small beside the model.
constexpr std::int64_t kChunkBytes = 256 << 20;

/// Rows of a chunk of `count` rows in all, `row_bytes` of logits each; chunks are about equal.
std::int64_t chunk_rows(std::int64_t row_bytes, std::int64_t count) {
  const auto most = std::max<std::int64_t>(1, kChunkBytes / row_bytes);
  const auto chunks = std::max<std::int64_t>(1, (count + most - 1) / most);
  return std::max<std::int64_t>(1, (count + chunks - 1) / chunks);
}

std::int64_t row_bytes_of(const Transformer& transformer, at::ScalarType dtype) {
  return transformer.lm_head.size(0) * static_cast<std::int64_t>(c10::elementSize(dtype));
}

}  // namespace

Targets targets_of(std::span<const std::int32_t> tokens, std::span<const float> loss_weights,
                   std::span<const std::int64_t> sample_offsets) {
  std::vector<std::int64_t> rows, targets;
  std::vector<float> weights;
  Targets result;
  for (std::size_t s = 0; s + 1 < sample_offsets.size(); ++s) {
    for (auto t = sample_offsets[s] + 1; t < sample_offsets[s + 1]; ++t) {
      const auto i = static_cast<std::size_t>(t);
      if (loss_weights[i] == 0.0f) continue;
      rows.push_back(t - 1);
      targets.push_back(tokens[i]);
      weights.push_back(loss_weights[i]);
      result.weight_sum += loss_weights[i];
    }
  }
  result.rows = at::tensor(rows, at::kLong);
  result.targets = at::tensor(targets, at::kLong);
  result.weights = at::tensor(weights, at::kFloat);
  return result;
}

std::int64_t head_bytes(const ModelConfig& config, std::int64_t count, bool bfloat16) {
  const std::int64_t element = bfloat16 ? 2 : 4;
  const auto row_bytes = config.vocab_size * element;
  // Float32: the rows chosen, two steps of their norm, and three gradients.
  return chunk_rows(row_bytes, count) * row_bytes + count * config.hidden_size * (6 * 4 + 2 * element);
}

HeadLoss head_loss(const Transformer& transformer, const at::Tensor& hidden, const at::Tensor& all_rows,
                   const std::function<double(std::int64_t, const at::Tensor&)>& loss) {
  HeadLoss result;
  const at::Tensor rows = all_rows.to(hidden.device());
  at::Tensor selected = hidden.detach().index_select(0, rows).set_requires_grad(true);
  at::Tensor normed;
  {
    at::AutoGradMode enable(true);
    normed = rms_norm(selected, transformer.norm, transformer.config().rms_norm_eps, transformer.dtype());
  }
  at::NoGradGuard no_grad;
  const at::Tensor head = transformer.lm_head.to(transformer.dtype());
  const bool trains_head = transformer.lm_head.requires_grad();
  at::Tensor grad_normed = at::empty_like(normed);
  const auto chunk = chunk_rows(row_bytes_of(transformer, transformer.dtype()), rows.size(0));
  const at::Tensor logits = at::empty({std::min(chunk, rows.size(0)), head.size(0)}, normed.options());
  for (std::int64_t first = 0; first < rows.size(0); first += chunk) {
    const auto count = std::min(chunk, rows.size(0) - first);
    const at::Tensor part = normed.detach().narrow(0, first, count);
    const bool tiled = takes_tiles(head, part);
    at::Tensor grad = logits.narrow(0, 0, count);  // logits, until the loss replaces them by their gradient
    if (tiled) {
      tiled_product(part, head, grad);
    } else {
      at::mm_out(grad, part, head.t());
    }
    result.loss_sum += loss(first, grad);
    at::Tensor grad_part = grad_normed.narrow(0, first, count);
    if (tiled) {
      tiled_gradient(grad, head, grad_part);
    } else {
      at::mm_out(grad_part, grad, head);
    }
    if (trains_head) transformer.lm_head.mutable_grad().add_(grad.t().mm(part));
  }
  torch::autograd::backward({normed}, {grad_normed});
  result.grad_hidden = at::zeros_like(hidden).index_copy_(0, rows, selected.grad());
  return result;
}

HeadLoss head_loss(const Transformer& transformer, const at::Tensor& hidden, const Targets& targets) {
  const auto device = hidden.device();
  return head_loss(transformer, hidden, targets.rows, [&](std::int64_t first, const at::Tensor& logits) {
    const auto count = logits.size(0);
    return cross_entropy_gradient(logits, targets.targets.narrow(0, first, count).to(device),
                                  targets.weights.narrow(0, first, count).to(device));
  });
}

at::Tensor head_log_probs(const Transformer& transformer, const at::Tensor& hidden, const Targets& targets) {
  at::NoGradGuard no_grad;
  const auto device = hidden.device();
  const at::Tensor rows = targets.rows.to(device);
  at::Tensor result = at::empty({rows.size(0)}, at::kFloat);
  const auto chunk = chunk_rows(row_bytes_of(transformer, at::kFloat), rows.size(0));
  for (std::int64_t first = 0; first < rows.size(0); first += chunk) {
    const auto count = std::min(chunk, rows.size(0) - first);
    const at::Tensor logits = head_logits(transformer, hidden.index_select(0, rows.narrow(0, first, count)));
    const at::Tensor index = targets.targets.narrow(0, first, count).to(device).unsqueeze(1);
    result.narrow(0, first, count).copy_((logits.gather(1, index) - logits.logsumexp(1, true)).squeeze(1));
  }
  return result;
}

at::Tensor head_logits(const Transformer& transformer, const at::Tensor& hidden) {
  at::NoGradGuard no_grad;
  const at::Tensor normed = rms_norm(hidden, transformer.norm, transformer.config().rms_norm_eps, transformer.dtype());
  if (takes_vectors(transformer.lm_head, normed))
    return vector_apply({transformer.lm_head, {}, {}}, normed, at::kFloat);
  return at::linear(normed, transformer.lm_head.to(transformer.dtype())).to(at::kFloat);
}

}  // namespace ossature
