#include "model/attention_blockwise.h"

#include <limits>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace ossature {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kBlock = 128;  // queries of a block

/// One block of queries and the keys that any of them may see, as ranges of the token axis.
struct Block {
  std::int64_t first_query, num_queries, first_key, num_keys;
};

std::vector<Block> blocks_of(const SequenceLayout& layout, bool sliding) {
  std::vector<Block> blocks;
  const auto& offsets = layout.offsets();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    for (auto first = offsets[s]; first < offsets[s + 1]; first += kBlock) {
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
at::Tensor scores_of(const at::Tensor& queries, const at::Tensor& keys, const Block& block,
                     const SequenceLayout& layout, bool sliding, double scale) {
  at::Tensor scores = at::bmm(queries, keys.transpose(1, 2)).to(at::kFloat).mul_(scale);
  const auto offset = block.first_query - block.first_key;
  at::Tensor hidden = at::ones({block.num_queries, block.num_keys}, scores.options().dtype(at::kBool)).triu(offset + 1);
  if (sliding) hidden.logical_or_(at::ones_like(hidden).tril(offset - layout.window()));
  return scores.view({keys.size(0), -1, block.num_queries, block.num_keys})
      .masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

class BlockwiseAttention : public torch::autograd::Function<BlockwiseAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q_in, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& sinks, const SequenceLayout* layout, bool sliding, double scale) {
    const at::Tensor q = q_in.contiguous();
    const auto key_heads = k.size(1);
    const at::Tensor sink_column = sinks.to(at::kFloat).view({key_heads, -1, 1});
    at::Tensor out = at::empty(q.sizes(), q.options());
    at::Tensor lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
    for (const Block& block : blocks_of(*layout, sliding)) {
      const at::Tensor queries = grouped(q, block.first_query, block.num_queries, key_heads);
      at::Tensor scores = scores_of(queries, keys_of(k, block), block, *layout, sliding, scale);
      const at::Tensor block_lse = at::logaddexp(scores.logsumexp(-1), sink_column);  // [Hk, G, queries]
      const at::Tensor weights = scores.sub_(block_lse.unsqueeze(-1)).exp_().flatten(1, 2).to(q.scalar_type());
      out.narrow(0, block.first_query, block.num_queries)
          .copy_(ungrouped(at::bmm(weights, keys_of(v, block)), block.num_queries));
      lse.narrow(0, block.first_query, block.num_queries).copy_(block_lse.flatten(0, 1).t());
    }
    context->save_for_backward({q, k, v, sinks, out, lse});
    context->saved_data["layout"] = reinterpret_cast<std::int64_t>(layout);
    context->saved_data["sliding"] = sliding;
    context->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &sinks = saved[3], &out = saved[4], &lse = saved[5];
    const auto* layout = reinterpret_cast<const SequenceLayout*>(context->saved_data["layout"].toInt());
    const bool sliding = context->saved_data["sliding"].toBool();
    const double scale = context->saved_data["scale"].toDouble();
    const at::Tensor grad = grads[0].to(q.scalar_type()).contiguous();
    const auto key_heads = k.size(1);
    const at::Tensor delta = (grad.to(at::kFloat) * out.to(at::kFloat)).sum(-1);  // [T, Hq]

    at::Tensor dq = at::empty_like(q);
    at::Tensor dk = at::zeros(k.sizes(), k.options().dtype(at::kFloat)), dv = at::zeros_like(dk);
    const auto rows = [&](const at::Tensor& x, const Block& block) {  // [T, Hq] -> [Hk, G, queries, 1]
      return x.narrow(0, block.first_query, block.num_queries).t().reshape({key_heads, -1, block.num_queries, 1});
    };
    for (const Block& block : blocks_of(*layout, sliding)) {
      const at::Tensor queries = grouped(q, block.first_query, block.num_queries, key_heads);
      const at::Tensor out_grads = grouped(grad, block.first_query, block.num_queries, key_heads);
      const at::Tensor keys = keys_of(k, block), values = keys_of(v, block);
      const at::Tensor weights = scores_of(queries, keys, block, *layout, sliding, scale).sub_(rows(lse, block)).exp_();
      const at::Tensor dweights = at::bmm(out_grads, values.transpose(1, 2)).to(at::kFloat).view_as(weights);
      const at::Tensor dscores =
          (weights * (dweights - rows(delta, block))).mul_(scale).flatten(1, 2).to(q.scalar_type());
      dq.narrow(0, block.first_query, block.num_queries).copy_(ungrouped(at::bmm(dscores, keys), block.num_queries));
      keys_of(dk, block).add_(at::bmm(dscores.transpose(1, 2), queries));
      keys_of(dv, block).add_(at::bmm(weights.flatten(1, 2).to(q.scalar_type()).transpose(1, 2), out_grads));
    }
    const at::Tensor dsinks = context->needs_input_grad(3) ? sink_gradient(grad, out, lse, sinks) : at::Tensor();
    return {dq, dk.to(k.scalar_type()), dv.to(v.scalar_type()), dsinks, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor attention_blockwise(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks,
                               const SequenceLayout& layout, bool sliding, double scale) {
  return BlockwiseAttention::apply(q, k, v, sinks, &layout, sliding, scale);
}

at::Tensor sink_gradient(const at::Tensor& grad, const at::Tensor& out, const at::Tensor& lse,
                         const at::Tensor& sinks) {
  const at::Tensor share = at::exp(sinks.to(at::kFloat).view({1, -1}) - lse);
  return -(share * (grad.to(at::kFloat) * out.to(at::kFloat)).sum(-1)).sum(0);
}

}  // namespace ossature
