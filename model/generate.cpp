#include "model/generate.h"

#include <limits>
#include <stdexcept>

#include <ATen/ATen.h>

#include "model/head.h"

namespace ossature {
namespace {

/// Attention of the newest tokens to all that the cache holds, themselves included. q [T, Hq, D] -> [T, Hq, D].
at::Tensor attend_to_cache(const at::Tensor& q, const KeyValue& past, const at::Tensor& sinks, std::int64_t window,
                           double scale) {
  const auto num_new = q.size(0), num_keys = past.key.size(0), group = q.size(1) / past.key.size(1);
  const at::Tensor keys = past.key.to(at::kFloat).repeat_interleave(group, 1);
  const at::Tensor values = past.value.to(at::kFloat).repeat_interleave(group, 1);
  at::Tensor scores = at::einsum("qhd,khd->hqk", {q.to(at::kFloat), keys}) * scale;
  const auto offset = num_keys - num_new;  // the first new token's row among the keys
  at::Tensor visible = at::ones({num_new, num_keys}, scores.options().dtype(at::kBool)).tril(offset);
  if (window > 0) visible = visible.logical_and(visible.triu(offset + 1 - window));
  scores = scores.masked_fill(visible.logical_not(), -std::numeric_limits<float>::infinity());
  const at::Tensor column = sinks.to(at::kFloat).view({-1, 1, 1}).expand({-1, num_new, 1});
  const at::Tensor weights = at::softmax(at::cat({scores, column}, -1), -1).narrow(-1, 0, num_keys);
  return at::einsum("hqk,khd->qhd", {weights, values}).to(q.scalar_type());
}

}  // namespace

void KeyValueCache::make_room(const KeyValue& newest) {
  const auto num_new = newest.key.size(0);
  const auto kept = limit_ > 0 ? std::min(size(), limit_) : size();
  if (buffer_.key.defined() && last_ + num_new <= buffer_.key.size(0)) return;
  auto shape = newest.key.sizes().vec();
  shape[0] = 2 * (kept + num_new) + 64;
  const auto grown = [&](const at::Tensor& old) {
    at::Tensor fresh = at::empty(shape, newest.key.options());
    if (kept > 0) fresh.narrow(0, 0, kept).copy_(old.narrow(0, last_ - kept, kept));
    return fresh;
  };
  buffer_ = {grown(buffer_.key), grown(buffer_.value)};
  first_ = 0;
  last_ = kept;
}

void KeyValueCache::append(const KeyValue& newest) {
  make_room(newest);
  const auto num_new = newest.key.size(0);
  buffer_.key.narrow(0, last_, num_new).copy_(newest.key);
  buffer_.value.narrow(0, last_, num_new).copy_(newest.value);
  // A token still looks `limit_` back from where it stands, so those before the newest stay for one more call.
  if (limit_ > 0) first_ = std::max(first_, last_ - limit_);
  last_ += num_new;
}

KeyValue KeyValueCache::view() const {
  return {buffer_.key.narrow(0, first_, size()), buffer_.value.narrow(0, first_, size())};
}

Decoder::Decoder(const Transformer& transformer) : transformer_(transformer) {
  for (const Layer& layer : transformer.layers()) {
    caches_.emplace_back(layer.sliding ? transformer.config().sliding_window : 0);
  }
}

at::Tensor Decoder::attend(std::int64_t layer, const at::Tensor& x, const Pass& pass) {
  KeyValueCache& cache = caches_[static_cast<std::size_t>(layer)];
  if (num_tokens_ == 0) {
    KeyValue computed;
    at::Tensor y = transformer_.run_layer(layer, x, pass, &computed);
    cache.append(computed);
    return y;
  }
  const Layer& weights = transformer_.layers()[static_cast<std::size_t>(layer)];
  const Transformer::Projected projected = transformer_.project(layer, x, pass);
  cache.append({projected.k, projected.v});
  const at::Tensor out =
      attend_to_cache(projected.q, cache.view(), weights.sinks,
                      weights.sliding ? transformer_.config().sliding_window : 0, transformer_.attention_scale());
  return transformer_.finish_layer(layer, x, out.reshape({x.size(0), transformer_.config().query_size()}), pass);
}

at::Tensor Decoder::feed(std::span<const std::int32_t> tokens) {
  if (tokens.empty()) throw std::invalid_argument("a decoder needs at least one token");
  at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(tokens.size());
  const auto& config = transformer_.config();
  const std::int64_t offsets[] = {0, count};
  const SequenceLayout layout(offsets, config.sliding_window);
  const RopeTable rope = rope_table(config, (layout.positions() + num_tokens_).to(transformer_.device()));
  const Pass pass{layout, rope};
  at::Tensor ids = at::empty({count}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.data_ptr<std::int64_t>());
  at::Tensor x = transformer_.embed(ids.to(transformer_.device()));
  for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) x = attend(n, x, pass);
  num_tokens_ += count;
  return head_logits(transformer_, x.narrow(0, count - 1, 1))[0].cpu();
}

std::int32_t sample_token(const at::Tensor& logits, const SamplingOptions& options, std::mt19937_64& generator) {
  if (options.temperature == 0.0) return static_cast<std::int32_t>(logits.argmax().item<std::int64_t>());
  const auto kept = options.top_k > 0 ? std::min(options.top_k, logits.size(0)) : logits.size(0);
  const auto [best, ids] = logits.to(at::kDouble).topk(kept);
  const at::Tensor probabilities = at::softmax(best / options.temperature, 0);
  const auto* p = probabilities.const_data_ptr<double>();
  double total = 0.0;
  std::int64_t count = 0;
  while (count < kept && (count == 0 || total < options.top_p)) total += p[count++];
  // The generator's own bits rather than a standard distribution, whose algorithm differs among libraries.
  double left = static_cast<double>(generator() >> 11) * 0x1p-53 * total;
  std::int64_t chosen = 0;
  while (chosen + 1 < count && left >= p[chosen]) left -= p[chosen++];
  return static_cast<std::int32_t>(ids.const_data_ptr<std::int64_t>()[chosen]);
}

}  // namespace ossature
