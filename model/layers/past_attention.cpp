#include "model/layers/past_attention.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/layers/attention_kernels.h"

namespace ossature {

at::Tensor attention_to_past(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks,
                             std::int64_t window, double scale) {
  at::NoGradGuard no_grad;
  const std::int64_t offsets[] = {0, k.size(0)};
  const SequenceLayout layout(offsets, window);
  const auto wide = [](const at::Tensor& x) { return x.to(at::kFloat).contiguous(); };
  return blockwise_forward({wide(q), wide(k), wide(v), wide(sinks), layout, window > 0, scale}).out.to(q.scalar_type());
}

}  // namespace ossature
