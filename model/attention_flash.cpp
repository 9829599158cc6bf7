#include <ATen/ATen.h>

#include "model/attention_kernels.h"

namespace ossature {
namespace {

/// [T, H, D] -> [1, H, T, D] view, the order that the kernel takes.
at::Tensor heads_first(const at::Tensor& x) {
  return x.transpose(0, 1).unsqueeze(0);
}

/// [..., H, Q, D] * sigmoid(l - s): what is left of the output once the sink has taken its share.
at::Tensor with_sink(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& sinks) {
  const at::Tensor share = at::sigmoid(lse - sinks.view({1, -1, 1}));
  return out * share.unsqueeze(-1).to(out.scalar_type());
}

struct Kernel {
  at::Tensor out;  // [B, H, Q, D]
  at::Tensor lse;  // [B, H, Q] float32, the sink counted in
};

Kernel run_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks, bool causal,
                  const std::optional<at::Tensor>& mask, double scale) {
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, mask, scale);
  return {with_sink(out, lse, sinks), at::logaddexp(lse, sinks.view({1, -1, 1}))};
}

/// Padded copy [padding + num_blocks * block_size, H, D], zeros before the first token and after the last.
at::Tensor pad_keys(const at::Tensor& x, const SequenceLayout& layout) {
  at::Tensor padded =
      at::zeros({layout.padding() + layout.num_blocks() * layout.block_size(), x.size(1), x.size(2)}, x.options());
  padded.narrow(0, layout.padding(), x.size(0)).copy_(x);
  return padded;
}

/// The overlapping key windows of `padded`, [num_blocks, H, padding + block_size, D], without a copy.
at::Tensor key_windows(const at::Tensor& padded, const SequenceLayout& layout) {
  const auto row = padded.stride(0);
  return padded.as_strided(
      {layout.num_blocks(), padded.size(1), layout.padding() + layout.block_size(), padded.size(2)},
      {layout.block_size() * row, padded.stride(1), row, 1});
}

/// x [T, H, D] -> [num_blocks, H, block_size, D], the last block filled up with zeros.
at::Tensor query_blocks(const at::Tensor& x, const SequenceLayout& layout) {
  const auto rows = layout.num_blocks() * layout.block_size();
  at::Tensor filled = x;
  if (rows != x.size(0)) {
    filled = at::zeros({rows, x.size(1), x.size(2)}, x.options());
    filled.narrow(0, 0, x.size(0)).copy_(x);
  }
  return filled.view({layout.num_blocks(), layout.block_size(), x.size(1), x.size(2)}).transpose(1, 2);
}

/// The inverse of query_blocks: [num_blocks, H, block_size, D] -> [T, H, D].
at::Tensor unblock(const at::Tensor& blocks, std::int64_t num_tokens) {
  const at::Tensor rows = blocks.transpose(1, 2).reshape({-1, blocks.size(1), blocks.size(3)});
  return rows.narrow(0, 0, num_tokens);
}

/// Sums the gradients of overlapping windows back onto the tokens: [num_blocks, H, padding + block_size, D] -> [T, H,
/// D].
at::Tensor add_overlaps(const at::Tensor& windows, const SequenceLayout& layout) {
  const auto length = layout.padding() + layout.num_blocks() * layout.block_size();
  at::Tensor sum = at::zeros({length, windows.size(1), windows.size(3)}, windows.options().dtype(at::kFloat));
  for (std::int64_t block = 0; block < layout.num_blocks(); ++block) {
    sum.narrow(0, block * layout.block_size(), windows.size(2)).add_(windows[block].transpose(0, 1));
  }
  return sum.narrow(0, layout.padding(), layout.num_tokens()).to(windows.scalar_type());
}

/// Calls f(first, length) for each sample that has tokens.
template <typename F>
void for_each_sample(const SequenceLayout& layout, F f) {
  const auto& offsets = layout.offsets();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s + 1] > offsets[s]) f(offsets[s], offsets[s + 1] - offsets[s]);
  }
}

}  // namespace

AttentionResult flash_forward(const AttentionInputs& in) {
  const auto& layout = in.layout;
  const auto num_tokens = in.q.size(0);
  if (in.sliding) {
    const Kernel result =
        run_kernel(query_blocks(in.q, layout), key_windows(pad_keys(in.k, layout), layout),
                   key_windows(pad_keys(in.v, layout), layout), in.sinks, false, layout.window_mask(), in.scale);
    return {unblock(result.out, num_tokens).contiguous(),
            unblock(result.lse.unsqueeze(-1), num_tokens).squeeze(-1).contiguous()};
  }
  AttentionResult all{at::empty(in.q.sizes(), in.q.options()),
                      at::empty({num_tokens, in.q.size(1)}, in.q.options().dtype(at::kFloat))};
  for_each_sample(layout, [&](std::int64_t first, std::int64_t length) {
    const auto part = [&](const at::Tensor& x) { return heads_first(x.narrow(0, first, length)); };
    const Kernel result = run_kernel(part(in.q), part(in.k), part(in.v), in.sinks, true, std::nullopt, in.scale);
    all.out.narrow(0, first, length).copy_(result.out[0].transpose(0, 1));
    all.lse.narrow(0, first, length).copy_(result.lse[0].t());
  });
  return all;
}

AttentionGradients flash_backward(const AttentionInputs& in, const AttentionResult& result, const at::Tensor& grad) {
  const auto& layout = in.layout;
  if (in.sliding) {
    const at::Tensor lse = query_blocks(result.lse.unsqueeze(-1), layout).squeeze(-1).contiguous();
    auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        query_blocks(grad, layout), query_blocks(in.q, layout), key_windows(pad_keys(in.k, layout), layout),
        key_windows(pad_keys(in.v, layout), layout), query_blocks(result.out, layout), lse, 0.0, false,
        layout.window_mask(), in.scale);
    return {unblock(dq, in.q.size(0)), add_overlaps(dk, layout), add_overlaps(dv, layout)};
  }
  AttentionGradients all{at::empty_like(in.q), at::empty(in.k.sizes(), in.k.options()),
                         at::empty(in.v.sizes(), in.v.options())};
  for_each_sample(layout, [&](std::int64_t first, std::int64_t length) {
    const auto part = [&](const at::Tensor& x) { return heads_first(x.narrow(0, first, length)); };
    auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        part(grad), part(in.q), part(in.k), part(in.v), part(result.out),
        result.lse.narrow(0, first, length).t().unsqueeze(0).contiguous(), 0.0, true, std::nullopt, in.scale);
    all.q.narrow(0, first, length).copy_(dq[0].transpose(0, 1));
    all.k.narrow(0, first, length).copy_(dk[0].transpose(0, 1));
    all.v.narrow(0, first, length).copy_(dv[0].transpose(0, 1));
  });
  return all;
}

}  // namespace ossature
