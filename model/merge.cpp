#include "model/merge.h"

#include <ATen/ATen.h>

namespace ossature {

at::Tensor merge(const at::Tensor& base, const LowRank& pair) {
  at::NoGradGuard no_grad;
  const at::Tensor weight = base.to(at::kFloat);
  return pair.defined() ? at::addmm(weight, pair.b.detach().cpu(), pair.a.detach().cpu(), 1.0, pair.scale) : weight;
}

at::Tensor merge_expert(const ExpertWeight& base, const LowRank& pair, std::int64_t e) {
  const at::Tensor weight =
      base.is_packed() ? mxfp4_decode_expert(base.packed, e, at::kFloat) : base.dense[e].to(at::kFloat);
  return pair.defined() ? merge(weight, {pair.a[e], pair.b[e], pair.scale}) : weight;
}

}  // namespace ossature
