#include <limits>

#include <ATen/ATen.h>

#include "model/kernels/vector_library.h"
#include "model/layers/attention_kernels.h"

namespace ossature {
namespace {

constexpr std::int64_t kBlock = 128;  // queries of a block

/// One block of queries and the keys that any of them may see, as ranges of the token axis.
struct Block {
  std::int64_t first_query, num_queries, first_key, num_keys;
};

/// Queries before `past` are left out.
std::vector<Block> blocks_of(const SequenceLayout& layout, bool sliding, std::int64_t past = 0) {
  std::vector<Block> blocks;
  const auto& offsets = layout.offsets();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    for (auto first = std::max(offsets[s], past); first < offsets[s + 1]; first += kBlock) {
      const auto end = std::min(first + kBlock, offsets[s + 1]);
      const auto first_key = sliding ? std::max(offsets[s], first - layout.window() + 1) : offsets[s];
      blocks.push_back({first, end - first, first_key, end - first_key});
    }
  }
  return blocks;
}

/// Rows of x [T, Hq, D] -> [Hk, G rows, D]: the query heads of a group of G share a key head.
at::Tensor grouped(const at::Tensor& x, std::int64_t first, std::int64_t count, std::int64_t key_heads) {
  return x.narrow(0, first, count)
      .view({count, key_heads, -1, x.size(-1)})
      .permute({1, 2, 0, 3})
      .reshape({key_heads, -1, x.size(-1)});
}

/// The inverse of grouped: [Hk, G rows, D] -> [rows, Hq, D].
at::Tensor ungrouped(const at::Tensor& x, std::int64_t count) {
  const auto key_heads = x.size(0), size = x.size(-1);
  return x.view({key_heads, -1, count, size}).permute({2, 0, 1, 3}).reshape({count, -1, size});
}

/// Rows of x [T, Hk, D] -> [Hk, rows, D], a view.
at::Tensor keys_of(const at::Tensor& x, const Block& block) {
  return x.narrow(0, block.first_key, block.num_keys).transpose(0, 1);
}

/// scale * q.k, -inf where a query may not look: float32 [Hk, G, queries, keys].
at::Tensor scores_of(const at::Tensor& queries, const at::Tensor& keys, const Block& block, const AttentionInputs& in) {
  at::Tensor scores = at::bmm(queries, keys.transpose(1, 2)).to(at::kFloat).mul_(in.scale);
  const auto offset = block.first_query - block.first_key;
  at::Tensor hidden = at::ones({block.num_queries, block.num_keys}, scores.options().dtype(at::kBool)).triu(offset + 1);
  if (in.sliding) hidden.logical_or_(at::ones_like(hidden).tril(offset - in.layout.window()));
  return scores.view({keys.size(0), -1, block.num_queries, block.num_keys})
      .masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

}  // namespace

AttentionResult blockwise_forward(const AttentionInputs& in) {
  settle_vector_library();
  const auto key_heads = in.k.size(1), past = in.k.size(0) - in.q.size(0);
  const at::Tensor sinks = in.sinks.view({key_heads, -1, 1});
  AttentionResult all{at::empty(in.q.sizes(), in.q.options()),
                      at::empty({in.q.size(0), in.q.size(1)}, in.q.options().dtype(at::kFloat))};
  for (const Block& block : blocks_of(in.layout, in.sliding, past)) {
    const at::Tensor queries = grouped(in.q, block.first_query - past, block.num_queries, key_heads);
    at::Tensor scores = scores_of(queries, keys_of(in.k, block), block, in);
    const at::Tensor lse = at::logaddexp(scores.logsumexp(-1), sinks);  // [Hk, G, queries]
    const at::Tensor weights = scores.sub_(lse.unsqueeze(-1)).exp_().flatten(1, 2).to(in.q.scalar_type());
    all.out.narrow(0, block.first_query - past, block.num_queries)
        .copy_(ungrouped(at::bmm(weights, keys_of(in.v, block)), block.num_queries));
    all.lse.narrow(0, block.first_query - past, block.num_queries).copy_(lse.flatten(0, 1).t());
  }
  return all;
}

AttentionGradients blockwise_backward(const AttentionInputs& in, const AttentionResult& result,
                                      const at::Tensor& grad) {
  const auto key_heads = in.k.size(1);
  const auto dtype = in.q.scalar_type();
  const at::Tensor delta = (grad.to(at::kFloat) * result.out.to(at::kFloat)).sum(-1);  // [T, Hq]
  at::Tensor dq = at::empty_like(in.q);
  at::Tensor dk = at::zeros(in.k.sizes(), in.k.options().dtype(at::kFloat)), dv = at::zeros_like(dk);
  for (const Block& block : blocks_of(in.layout, in.sliding)) {
    const auto column = [&](const at::Tensor& x) {  // [T, Hq] -> [Hk, G, queries, 1]
      return x.narrow(0, block.first_query, block.num_queries).t().reshape({key_heads, -1, block.num_queries, 1});
    };
    const at::Tensor queries = grouped(in.q, block.first_query, block.num_queries, key_heads);
    const at::Tensor grads = grouped(grad, block.first_query, block.num_queries, key_heads);
    const at::Tensor keys = keys_of(in.k, block), values = keys_of(in.v, block);
    const at::Tensor weights = scores_of(queries, keys, block, in).sub_(column(result.lse)).exp_();
    const at::Tensor dweights = at::bmm(grads, values.transpose(1, 2)).to(at::kFloat).view_as(weights);
    const at::Tensor dscores = (weights * (dweights - column(delta))).mul_(in.scale).flatten(1, 2).to(dtype);
    dq.narrow(0, block.first_query, block.num_queries).copy_(ungrouped(at::bmm(dscores, keys), block.num_queries));
    keys_of(dk, block).add_(at::bmm(dscores.transpose(1, 2), queries));
    keys_of(dv, block).add_(at::bmm(weights.flatten(1, 2).to(dtype).transpose(1, 2), grads));
  }
  return {dq, dk.to(in.k.scalar_type()), dv.to(in.v.scalar_type())};
}

}  // namespace ossature
