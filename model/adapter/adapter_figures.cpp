#include "model/adapter/adapter_figures.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/low_rank_svd.h"
#include "model/adapter/merge.h"
#include "model/adapter/spectrum.h"
#include "model/adapter/weight_norm.h"

namespace ossature {
namespace {

/// norm / base, of nothing on nothing too.
double relative(double norm, double base) {
  return norm == 0.0 ? 0.0 : norm / base;
}

/// The norms of the base weights of a target, by matrix.
class BaseNorms {
 public:
  BaseNorms(const Checkpoint& base, const LoraTarget& target) {
    if (target.a_shape.size() == 3) {
      experts_ = base.expert_weight(target.name);
    } else {
      dense_ = base.tensor(tensor_name(target));
    }
  }
  [[nodiscard]] double operator()(std::int64_t e) const {
    return dense_.defined() ? weight_norm(dense_) : weight_norm(experts_, e);
  }

 private:
  at::Tensor dense_;
  ExpertWeight experts_;
};

TargetFigures measure(const Lora& lora, const LoraTarget& target, const Checkpoint* base) {
  const at::Tensor a = lora.a(target).detach().cpu(), b = lora.b(target).detach().cpu();
  const bool has_experts = a.dim() == 3;
  const std::int64_t count = has_experts ? a.size(0) : 1;
  std::optional<BaseNorms> base_norms;
  if (base != nullptr) base_norms.emplace(*base, target);

  TargetFigures figures{target, std::vector<DeltaFigures>(static_cast<std::size_t>(count))};
  std::vector<double> bases(static_cast<std::size_t>(count));
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto e = begin; e < end; ++e) {
      const auto i = static_cast<std::size_t>(e);
      const auto sigma = singular_values({has_experts ? a[e] : a, has_experts ? b[e] : b, target.scale});
      DeltaFigures& matrix = figures.matrices[i];
      matrix = {frobenius_norm(sigma), std::nullopt, effective_rank(sigma), stable_rank(sigma)};
      if (!base_norms) continue;
      bases[i] = (*base_norms)(e);
      matrix.relative_norm = relative(matrix.norm, bases[i]);
    }
  });
  double squares = 0.0, base_squares = 0.0;
  for (std::size_t i = 0; i < bases.size(); ++i) {
    squares += figures.matrices[i].norm * figures.matrices[i].norm;
    base_squares += bases[i] * bases[i];
  }
  figures.norm = std::sqrt(squares);
  if (base_norms) figures.relative_norm = relative(figures.norm, std::sqrt(base_squares));
  return figures;
}

}  // namespace

std::vector<TargetFigures> measure(const Lora& lora, const Checkpoint* base,
                                   const std::function<void(std::int64_t, std::int64_t)>& progress) {
  at::NoGradGuard no_grad;
  const auto total = static_cast<std::int64_t>(lora.targets().size());
  std::vector<TargetFigures> all;
  for (const LoraTarget& target : lora.targets()) {
    all.push_back(measure(lora, target, base));
    if (progress) progress(static_cast<std::int64_t>(all.size()), total);
  }
  return all;
}

}  // namespace ossature
