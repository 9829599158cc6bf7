#include "model/export/requantize.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

namespace ossature {
namespace {

/// LibTorch on one thread meanwhile: a factorization's bits depend on the number.
class OneThread {
 public:
  OneThread() : threads_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(threads_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_;
};

/// H = M diag(p) M^T with M unit upper triangular: Cholesky's factor of H with rows and columns turned round, turned
/// back.
struct Factored {
  at::Tensor hessian, factor, factor_t, pivots;
};

Factored factored(const at::Tensor& covariance) {
  const at::Tensor mean = covariance.diagonal().mean();
  // Inputs that never vary tell nothing: all weights count alike.
  if (!(mean.item<float>() > 0.0f)) {
    const at::Tensor identity = at::eye(covariance.size(0));
    return {identity, identity, identity, at::ones({covariance.size(0)})};
  }
  for (double damping = kRoundingDamping;; damping *= 10.0) {
    at::Tensor hessian = covariance.clone();
    hessian.diagonal().add_(mean, damping);
    auto [lower, info] = at::linalg_cholesky_ex(hessian.flip({0, 1}));
    if (info.item<int>() != 0 && damping < 1e6) continue;
    at::Tensor factor = lower.flip({0, 1});
    const at::Tensor roots = factor.diagonal().clone();
    factor.div_(roots.unsqueeze(0));
    return {std::move(hessian), factor.contiguous(), factor.t().contiguous(), roots.square()};
  }
}

}  // namespace

RoundedExpert requantize(const Mxfp4Tensor& base, std::int64_t e, const LowRank& delta, const InputMoments& inputs,
                         const RoundingSettings& settings) {
  at::NoGradGuard no_grad;
  const auto out = base.out_features(), in = base.in_features(), rank = delta.a.size(0);
  const at::Tensor blocks = base.blocks[e].contiguous(), scales = base.scales[e].contiguous();
  RoundedExpert result;
  result.blocks = at::empty_like(blocks);
  result.bias_correction = at::empty({out}, at::kFloat);
  at::Tensor order, a, a_h, a_m, b, mean;
  Factored columns;
  {
    const OneThread one;
    order = std::get<1>(at::sort(inputs.covariance.diagonal(), /*stable=*/true, /*dim=*/0, /*descending=*/true));
    columns = factored(inputs.covariance.index_select(0, order).index_select(1, order));
    a = (delta.a.detach().to(at::kFloat) * delta.scale).index_select(1, order).contiguous();
    a_h = at::mm(a, columns.hessian);
    a_m = at::mm(a, columns.factor);
    b = delta.b.detach().to(at::kFloat).contiguous();
    mean = inputs.mean.index_select(0, order);
  }
  const RoundingColumns shared{in,
                               order.const_data_ptr<std::int64_t>(),
                               columns.hessian.const_data_ptr<float>(),
                               columns.factor.const_data_ptr<float>(),
                               columns.factor_t.const_data_ptr<float>(),
                               columns.pivots.const_data_ptr<float>(),
                               mean.const_data_ptr<float>(),
                               rank,
                               a.const_data_ptr<float>(),
                               a_h.const_data_ptr<float>(),
                               a_m.const_data_ptr<float>()};
  std::vector<double> realised(static_cast<std::size_t>(out)), wanted(static_cast<std::size_t>(out));
  const auto* stored = blocks.const_data_ptr<std::uint8_t>();
  const auto* exponents = scales.const_data_ptr<std::uint8_t>();
  const float* coefficients = b.const_data_ptr<float>();
  auto* rounded = result.blocks.data_ptr<std::uint8_t>();
  auto* correction = result.bias_correction.data_ptr<float>();
  at::parallel_for(0, (out + kRoundedRows - 1) / kRoundedRows, 1, [&](std::int64_t begin, std::int64_t end) {
    RowRounder rounder(shared, settings);
    for (auto block = begin; block < end; ++block) {
      const auto row = block * kRoundedRows;
      rounder.round({std::min(kRoundedRows, out - row), stored + row * in / 2, exponents + row * in / kMxfp4BlockSize,
                     coefficients + row * rank, rounded + row * in / 2, correction + row, realised.data() + row,
                     wanted.data() + row});
    }
  });
  for (std::size_t row = 0; row < realised.size(); ++row) {
    result.realised += realised[row];
    result.wanted += wanted[row];
  }
  return result;
}

}  // namespace ossature
