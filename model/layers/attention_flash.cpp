#include <limits>

#include <ATen/ATen.h>

#include "model/layers/attention_kernels.h"

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

/// A sliding layer's cut: queries in blocks against the keys of the same block and the `padding` before it.
struct Windows {
  std::int64_t num_tokens, padding, block_size, num_blocks;

  explicit Windows(const SequenceLayout& layout)
      : num_tokens(layout.num_tokens()),
        padding(layout.window()),
        // A longer block wastes work on masked pairs, a shorter one has more overlap; 128 was best for gpt-oss's
        // window.
        block_size(std::clamp<std::int64_t>(layout.window(), 16, 128)),
        num_blocks((num_tokens + block_size - 1) / block_size) {}

  /// Additive mask [num_blocks, 1, block_size, padding + block_size] float32: 0 where a query may look, -inf elsewhere.
  [[nodiscard]] at::Tensor mask(const SequenceLayout& layout) const {
    const auto keys = padding + block_size;
    at::Tensor mask = at::full({num_blocks, 1, block_size, keys}, -std::numeric_limits<float>::infinity(), at::kFloat);
    auto* values = mask.data_ptr<float>();
    const auto* positions = layout.positions().const_data_ptr<std::int64_t>();
    for (std::int64_t t = 0; t < num_tokens; ++t) {
      const auto first_visible = t - std::min(positions[t], padding - 1);
      auto* row = values + t * keys;                              // rows of all blocks follow each other
      const auto origin = t / block_size * block_size - padding;  // token of key 0 of this block
      std::fill(row + (first_visible - origin), row + (t - origin) + 1, 0.0f);
    }
    return mask;
  }

  /// The overlapping key windows of x [T, H, D], [num_blocks, H, padding + block_size, D]; zeros before the first token
  /// and after the last.
  [[nodiscard]] at::Tensor keys(const at::Tensor& x) const {
    at::Tensor padded = at::zeros({padding + num_blocks * block_size, x.size(1), x.size(2)}, x.options());
    padded.narrow(0, padding, x.size(0)).copy_(x);
    const auto row = padded.stride(0);
    return padded.as_strided({num_blocks, x.size(1), padding + block_size, x.size(2)},
                             {block_size * row, padded.stride(1), row, 1});
  }

  /// x [T, H, D] -> [num_blocks, H, block_size, D], the last block filled up with zeros.
  [[nodiscard]] at::Tensor queries(const at::Tensor& x) const {
    const auto rows = num_blocks * block_size;
    at::Tensor filled = x;
    if (rows != x.size(0)) {
      filled = at::zeros({rows, x.size(1), x.size(2)}, x.options());
      filled.narrow(0, 0, x.size(0)).copy_(x);
    }
    return filled.view({num_blocks, block_size, x.size(1), x.size(2)}).transpose(1, 2);
  }

  /// The inverse of queries: [num_blocks, H, block_size, D] -> [T, H, D].
  [[nodiscard]] at::Tensor unblock(const at::Tensor& blocks) const {
    const at::Tensor rows = blocks.transpose(1, 2).reshape({-1, blocks.size(1), blocks.size(3)});
    return rows.narrow(0, 0, num_tokens);
  }

  /// Sums the gradients of overlapping windows back onto the tokens: the shape of keys -> [T, H, D].
  [[nodiscard]] at::Tensor add_overlaps(const at::Tensor& windows) const {
    at::Tensor sum = at::zeros({padding + num_blocks * block_size, windows.size(1), windows.size(3)},
                               windows.options().dtype(at::kFloat));
    for (std::int64_t block = 0; block < num_blocks; ++block) {
      sum.narrow(0, block * block_size, windows.size(2)).add_(windows[block].transpose(0, 1));
    }
    return sum.narrow(0, padding, num_tokens).to(windows.scalar_type());
  }
};

/// Calls f(first, length) for each sample that has tokens.
template <typename F>
void for_each_sample(const SequenceLayout& layout, F f) {
  const auto& offsets = layout.offsets();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s + 1] > offsets[s]) f(offsets[s], offsets[s + 1] - offsets[s]);
  }
}

}  // namespace

bool flash_fits(const at::Tensor& q) {
  return q.device().is_cpu() && q.scalar_type() == at::kBFloat16;
}

AttentionResult flash_forward(const AttentionInputs& in) {
  const auto& layout = in.layout;
  const auto num_tokens = in.q.size(0);
  if (in.sliding) {
    const Windows windows(layout);
    const Kernel result = run_kernel(windows.queries(in.q), windows.keys(in.k), windows.keys(in.v), in.sinks, false,
                                     windows.mask(layout), in.scale);
    return {windows.unblock(result.out).contiguous(),
            windows.unblock(result.lse.unsqueeze(-1)).squeeze(-1).contiguous()};
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
    const Windows windows(layout);
    const at::Tensor lse = windows.queries(result.lse.unsqueeze(-1)).squeeze(-1).contiguous();
    auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        windows.queries(grad), windows.queries(in.q), windows.keys(in.k), windows.keys(in.v),
        windows.queries(result.out), lse, 0.0, false, windows.mask(layout), in.scale);
    return {windows.unblock(dq), windows.add_overlaps(dk), windows.add_overlaps(dv)};
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
