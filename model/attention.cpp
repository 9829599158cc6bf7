#include "model/attention.h"

#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/attention_blockwise.h"

namespace ossature {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr float kMasked = -std::numeric_limits<float>::infinity();

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

Kernel flash_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks,
                     bool causal, const std::optional<at::Tensor>& mask, double scale) {
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

class FlashAttention : public torch::autograd::Function<FlashAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& sinks, const SequenceLayout* layout, bool sliding, double scale) {
    at::Tensor out, lse;
    if (sliding) {
      const Kernel result =
          flash_forward(query_blocks(q, *layout), key_windows(pad_keys(k, *layout), *layout),
                        key_windows(pad_keys(v, *layout), *layout), sinks, false, layout->window_mask(), scale);
      out = unblock(result.out, q.size(0)).contiguous();
      lse = result.lse;
    } else {
      out = at::empty(q.sizes(), q.options());
      lse = at::empty({q.size(1), q.size(0)}, q.options().dtype(at::kFloat));
      const auto& offsets = layout->offsets();
      for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const auto first = offsets[s], length = offsets[s + 1] - first;
        if (length == 0) continue;
        const Kernel result =
            flash_forward(heads_first(q.narrow(0, first, length)), heads_first(k.narrow(0, first, length)),
                          heads_first(v.narrow(0, first, length)), sinks, true, std::nullopt, scale);
        out.narrow(0, first, length).copy_(result.out[0].transpose(0, 1));
        lse.narrow(1, first, length).copy_(result.lse[0]);
      }
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

    at::Tensor dq, dk, dv;
    if (sliding) {
      auto [dq_blocks, dk_windows, dv_windows] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          query_blocks(grad, *layout), query_blocks(q, *layout), key_windows(pad_keys(k, *layout), *layout),
          key_windows(pad_keys(v, *layout), *layout), query_blocks(out, *layout), lse, 0.0, false,
          layout->window_mask(), scale);
      dq = unblock(dq_blocks, q.size(0));
      dk = add_overlaps(dk_windows, *layout);
      dv = add_overlaps(dv_windows, *layout);
    } else {
      dq = at::empty(q.sizes(), q.options());
      dk = at::empty(k.sizes(), k.options());
      dv = at::empty(v.sizes(), v.options());
      const auto& offsets = layout->offsets();
      for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const auto first = offsets[s], length = offsets[s + 1] - first;
        if (length == 0) continue;
        const auto part = [&](const at::Tensor& x) { return heads_first(x.narrow(0, first, length)); };
        auto [dq_part, dk_part, dv_part] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
            part(grad), part(q), part(k), part(v), part(out), lse.narrow(1, first, length).unsqueeze(0).contiguous(),
            0.0, true, std::nullopt, scale);
        dq.narrow(0, first, length).copy_(dq_part[0].transpose(0, 1));
        dk.narrow(0, first, length).copy_(dk_part[0].transpose(0, 1));
        dv.narrow(0, first, length).copy_(dv_part[0].transpose(0, 1));
      }
    }

    at::Tensor dsinks;
    if (context->needs_input_grad(3)) {
      const at::Tensor row_lse =
          sliding ? lse.permute({0, 2, 1}).reshape({-1, q.size(1)}).narrow(0, 0, q.size(0)) : lse.transpose(0, 1);
      dsinks = sink_gradient(grad, out, row_lse, sinks);
    }
    return {dq, dk, dv, dsinks, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

SequenceLayout::SequenceLayout(std::span<const std::int64_t> sample_offsets, std::int64_t window)
    : offsets_(sample_offsets.begin(), sample_offsets.end()), window_(window) {
  if (offsets_.empty() || offsets_.front() != 0) throw std::invalid_argument("sample offsets must begin with 0");
  for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
    if (offsets_[s] > offsets_[s + 1]) throw std::invalid_argument("sample offsets must not decrease");
  }
  const auto num_tokens = offsets_.back();
  // A longer block wastes work on masked pairs, a shorter one has more overlap; 128 was best for gpt-oss's window.
  block_size_ = std::clamp<std::int64_t>(window, 16, 128);
  num_blocks_ = (num_tokens + block_size_ - 1) / block_size_;

  positions_ = at::empty({num_tokens}, at::kLong);
  auto* positions = positions_.data_ptr<std::int64_t>();
  for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
    for (auto t = offsets_[s]; t < offsets_[s + 1]; ++t) positions[t] = t - offsets_[s];
  }

  const auto keys = padding() + block_size_;
  window_mask_ = at::full({num_blocks_, 1, block_size_, keys}, kMasked, at::kFloat);
  auto* mask = window_mask_.data_ptr<float>();
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const auto block = t / block_size_;
    const auto first_visible = t - std::min(positions[t], window_ - 1);
    auto* row = mask + t * keys;                          // rows of all blocks follow each other
    const auto origin = block * block_size_ - padding();  // token of key 0 of this block
    std::fill(row + (first_visible - origin), row + (t - origin) + 1, 0.0f);
  }
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks,
                     const SequenceLayout& layout, bool sliding, double scale) {
  // The kernel's exponential is good to 20 units in the last place: lost in bfloat16, but not in float32.
  if (q.scalar_type() == at::kFloat || !q.device().is_cpu()) {
    return attention_blockwise(q, k, v, sinks, layout, sliding, scale);
  }
  return FlashAttention::apply(q, k, v, sinks, &layout, sliding, scale);
}

}  // namespace ossature
