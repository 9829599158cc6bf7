#include "model/export/weight_rounding.h"

#include <algorithm>
#include <utility>

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

Factored factored(const at::Tensor& moment) {
  const at::Tensor mean = moment.diagonal().mean();
  // Inputs that never vary tell nothing: all weights count alike.
  if (!(mean.item<float>() > 0.0f)) {
    const at::Tensor identity = at::eye(moment.size(0));
    return {identity, identity, identity, at::ones({moment.size(0)})};
  }
  for (double damping = kRoundingDamping;; damping *= 10.0) {
    at::Tensor hessian = moment.clone();
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

WeightRounder::WeightRounder(const at::Tensor& moment, const at::Tensor& mean, const LowRank& delta,
                             RoundingSettings settings)
    : settings_(std::move(settings)) {
  at::NoGradGuard no_grad;
  const OneThread one;
  order_ = std::get<1>(at::sort(moment.diagonal(), /*stable=*/true, /*dim=*/0, /*descending=*/true));
  Factored columns = factored(moment.index_select(0, order_).index_select(1, order_));
  hessian_ = std::move(columns.hessian);
  factor_ = std::move(columns.factor);
  factor_t_ = std::move(columns.factor_t);
  pivots_ = std::move(columns.pivots);
  mean_ = mean.index_select(0, order_);
  a_ = (delta.a.detach().to(at::kFloat) * delta.scale).index_select(1, order_).contiguous();
  a_h_ = at::mm(a_, hessian_);
  a_m_ = at::mm(a_, factor_);
  b_ = delta.b.detach().to(at::kFloat).contiguous();
}

RoundingGain WeightRounder::round(
    const std::function<WantedRows(std::int64_t, std::int64_t)>& read,
    const std::function<void(std::int64_t, const WantedRows&, const at::Tensor&, const float*)>& write) const {
  const auto in = order_.size(0), out = b_.size(0), rank = a_.size(0);
  const RoundingColumns shared{in,
                               order_.const_data_ptr<std::int64_t>(),
                               hessian_.const_data_ptr<float>(),
                               factor_.const_data_ptr<float>(),
                               factor_t_.const_data_ptr<float>(),
                               pivots_.const_data_ptr<float>(),
                               mean_.const_data_ptr<float>(),
                               rank,
                               a_.const_data_ptr<float>(),
                               a_h_.const_data_ptr<float>(),
                               a_m_.const_data_ptr<float>()};
  const float* coefficients = b_.const_data_ptr<float>();
  std::vector<double> realised(static_cast<std::size_t>(out)), wanted(static_cast<std::size_t>(out));
  at::parallel_for(0, (out + kRoundedRows - 1) / kRoundedRows, 1, [&](std::int64_t begin, std::int64_t end) {
    at::NoGradGuard no_grad;
    RowRounder rounder(shared, settings_);
    std::vector<float> corrections(kRoundedRows);
    for (auto block = begin; block < end; ++block) {
      const auto row = block * kRoundedRows, count = std::min(kRoundedRows, out - row);
      const WantedRows rows = read(row, count);
      const at::Tensor rounded = rows.unrounded.clone();
      rounder.round({count, rows.wanted.const_data_ptr<float>(), rows.scales.empty() ? nullptr : rows.scales.data(),
                     coefficients + row * rank, rounded.data_ptr<float>(), corrections.data(), realised.data() + row,
                     wanted.data() + row});
      write(row, rows, rounded, corrections.data());
    }
  });
  RoundingGain gain;
  for (std::size_t row = 0; row < realised.size(); ++row) {
    gain.realised += realised[row];
    gain.wanted += wanted[row];
  }
  return gain;
}

}  // namespace ossature
