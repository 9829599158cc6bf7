#include "model/layers/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/layers/attention_kernels.h"

namespace ossature {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Kernels {
  AttentionResult (*forward)(const AttentionInputs&);
  AttentionGradients (*backward)(const AttentionInputs&, const AttentionResult&, const at::Tensor&);
};

Kernels kernels_for(const at::Tensor& q) {
  if (tiled_fits(q)) return {tiled_forward, tiled_backward};
  if (flash_fits(q)) return {flash_forward, flash_backward};
  return {blockwise_forward, blockwise_backward};
}

class Attention : public torch::autograd::Function<Attention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& sinks, const SequenceLayout* layout, bool sliding, double scale) {
    const AttentionInputs in{q.contiguous(), k, v, sinks, *layout, sliding, scale};
    const AttentionResult result = kernels_for(in.q).forward(in);
    context->save_for_backward({in.q, k, v, sinks, result.out, result.lse});
    context->saved_data["layout"] = reinterpret_cast<std::int64_t>(layout);
    context->saved_data["sliding"] = sliding;
    context->saved_data["scale"] = scale;
    return result.out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const AttentionInputs in{saved[0],
                             saved[1],
                             saved[2],
                             saved[3],
                             *reinterpret_cast<const SequenceLayout*>(context->saved_data["layout"].toInt()),
                             context->saved_data["sliding"].toBool(),
                             context->saved_data["scale"].toDouble()};
    const AttentionResult result{saved[4], saved[5]};
    const at::Tensor grad = grads[0].to(in.q.scalar_type()).contiguous();
    const AttentionGradients found = kernels_for(in.q).backward(in, result, grad);
    at::Tensor sinks;
    if (context->needs_input_grad(3)) {
      // A sink's share of the softmax is exp(sink - lse); it takes from every output in that proportion.
      const at::Tensor share = at::exp(in.sinks.view({1, -1}) - result.lse);
      sinks = -(share * (grad.to(at::kFloat) * result.out.to(at::kFloat)).sum(-1)).sum(0);
    }
    return {found.q, found.k, found.v, sinks, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

SequenceLayout::SequenceLayout(std::span<const std::int64_t> sample_offsets, std::int64_t window)
    : offsets_(sample_offsets.begin(), sample_offsets.end()) {
  if (offsets_.empty() || offsets_.front() != 0) throw std::invalid_argument("sample offsets must begin with 0");
  std::int64_t longest = 1;
  for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
    if (offsets_[s] > offsets_[s + 1]) throw std::invalid_argument("sample offsets must not decrease");
    longest = std::max(longest, offsets_[s + 1] - offsets_[s]);
  }
  window_ = std::min(window, longest);
  positions_ = at::empty({num_tokens()}, at::kLong);
  auto* positions = positions_.data_ptr<std::int64_t>();
  for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
    for (auto t = offsets_[s]; t < offsets_[s + 1]; ++t) positions[t] = t - offsets_[s];
  }
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks,
                     const SequenceLayout& layout, bool sliding, double scale) {
  return Attention::apply(q, k, v, sinks, &layout, sliding, scale);
}

}  // namespace ossature
