#include "model/network/generate.h"

#include <stdexcept>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/layers/past_attention.h"
#include "model/network/head.h"

namespace ossature {
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

Decoder::Mark Decoder::mark() const {
  Mark mark{num_tokens_, {}};
  for (std::size_t n = 0; n < caches_.size(); ++n) {
    if (!transformer_.layers()[n].sliding || num_tokens_ == 0) continue;
    const KeyValue kept = caches_[n].view();
    mark.windows.push_back({kept.key.clone(), kept.value.clone()});
  }
  return mark;
}

void Decoder::rewind(const Mark& mark) {
  std::size_t window = 0;
  for (std::size_t n = 0; n < caches_.size(); ++n) {
    if (!transformer_.layers()[n].sliding || mark.num_tokens == 0) {
      caches_[n].truncate(mark.num_tokens);
      continue;
    }
    caches_[n] = KeyValueCache(transformer_.config().sliding_window);
    caches_[n].append(mark.windows[window++]);
  }
  num_tokens_ = mark.num_tokens;
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
  const KeyValue past = cache.view();
  const at::Tensor out =
      attention_to_past(projected.q, past.key, past.value, weights.sinks,
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
