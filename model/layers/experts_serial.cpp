// The expert layer one expert at a time: its weights are decoded whole into scratch memory and multiplied by LibTorch.
// For float32 and for dense weights.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/layers/experts_kernels.h"
#include "model/layers/swiglu.h"

namespace ossature {
namespace {

at::Tensor scratch_for(const ExpertWeight& weight, at::ScalarType dtype) {
  if (!weight.is_packed() || dtype != at::kBFloat16) return {};
  return at::empty({weight.out_features(), weight.in_features()}, at::kBFloat16);
}

/// out[tokens[n]] += weights[n] * rows[n]; no token twice. out float32 [T, H], rows [N, H], weights float32 [N] or
/// undefined.
template <typename T>
void add_rows_of(const at::Tensor& out, const at::Tensor& tokens, const at::Tensor& rows, const at::Tensor& weights) {
  const auto size = out.size(1);
  auto* sums = out.data_ptr<float>();
  const auto* indices = tokens.const_data_ptr<std::int64_t>();
  const T* values = rows.const_data_ptr<T>();
  const float* factors = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
  at::parallel_for(0, rows.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (auto n = begin; n < end; ++n) {
      float* to = sums + indices[n] * size;
      const T* from = values + n * size;
      const float factor = factors != nullptr ? factors[n] : 1.0f;
#pragma omp simd
      for (std::int64_t j = 0; j < size; ++j) to[j] += factor * static_cast<float>(from[j]);
    }
  });
}

void add_rows(const at::Tensor& out, const at::Tensor& tokens, const at::Tensor& rows, const at::Tensor& weights) {
  if (rows.scalar_type() == at::kBFloat16) {
    add_rows_of<c10::BFloat16>(out, tokens, rows, weights);
  } else {
    add_rows_of<float>(out, tokens, rows, weights);
  }
}

/// The low-rank pair of one expert in the dtype of the products.
struct ExpertPair {
  at::Tensor a, b;
  double scale;
  double probability;
  DropoutKey key;

  [[nodiscard]] at::Tensor drop(const at::Tensor& x) const { return dropout(x, probability, key); }
};

ExpertPair pair_of(const LowRank& pair, const at::Tensor& a, const at::Tensor& b, std::int64_t e, at::ScalarType dtype,
                   DropoutKey key) {
  return {a[e].to(dtype), b[e].to(dtype), pair.scale, pair.dropout, key};
}

/// y += scale * (drop(x) A^T) B^T, y as [N, O].
void add_low_rank(at::Tensor y, const at::Tensor& x, const ExpertPair& pair) {
  y.addmm_(at::linear(pair.drop(x), pair.a), pair.b.t(), 1.0, pair.scale);
}

}  // namespace

at::Tensor serial_forward(const ExpertsPass& pass, bool needs_output, ExpertsKept* kept) {
  const Experts& experts = pass.experts;
  const at::Tensor& x = pass.x;
  const auto dtype = x.scalar_type();
  const at::Tensor gate_up_scratch = scratch_for(experts.gate_up, dtype);
  const at::Tensor down_scratch = needs_output ? scratch_for(experts.down, dtype) : at::Tensor();
  const auto width = experts.gate_up.out_features();
  if (kept != nullptr) kept->u = at::empty({pass.assigned.order.size(0), width}, x.options());
  at::Tensor out = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
  for (std::int64_t e = 0; e < pass.assigned.num_experts(); ++e) {
    const auto first = pass.assigned.first(e), count = pass.assigned.count(e);
    if (count == 0) continue;
    const at::Tensor tokens = pass.assigned.tokens.narrow(0, first, count);
    const at::Tensor rows = x.index_select(0, tokens);
    at::Tensor u = kept != nullptr ? kept->u.narrow(0, first, count) : at::empty({count, width}, x.options());
    at::addmm_out(u, experts.gate_up_bias[e].to(dtype), rows,
                  decoded_expert(experts.gate_up, e, dtype, gate_up_scratch).t());
    if (pass.gate_up_a.defined()) {
      add_low_rank(
          u, rows,
          pair_of(experts.gate_up_low_rank, pass.gate_up_a, pass.gate_up_b, e, dtype, expert_key(pass.dropout, e, 0)));
    }
    if (!needs_output) continue;
    const at::Tensor h = swiglu_forward(u, pass.swiglu_limit);
    const at::Tensor y =
        at::linear(h, decoded_expert(experts.down, e, dtype, down_scratch), experts.down_bias[e].to(dtype));
    if (pass.down_a.defined()) {
      add_low_rank(y, h,
                   pair_of(experts.down_low_rank, pass.down_a, pass.down_b, e, dtype, expert_key(pass.dropout, e, 1)));
    }
    add_rows(out, tokens, y, pass.factors.narrow(0, first, count));
  }
  return out;
}

ExpertsGradients serial_backward(const ExpertsPass& pass, const ExpertsKept& kept, const at::Tensor& grad,
                                 bool needs_x) {
  const Experts& experts = pass.experts;
  const at::Tensor& x = pass.x;
  const auto dtype = x.scalar_type();
  ExpertsGradients result = zero_gradients(pass, needs_x);
  result.factors = at::empty({pass.assigned.order.size(0)}, pass.factors.options());
  const at::Tensor gate_up_scratch = scratch_for(experts.gate_up, dtype);
  const at::Tensor down_scratch = scratch_for(experts.down, dtype);

  for (std::int64_t e = 0; e < pass.assigned.num_experts(); ++e) {
    const auto first = pass.assigned.first(e), count = pass.assigned.count(e);
    if (count == 0) continue;
    const at::Tensor tokens = pass.assigned.tokens.narrow(0, first, count);
    const at::Tensor factor = pass.factors.narrow(0, first, count).unsqueeze(1).to(dtype);
    const at::Tensor u = kept.u.narrow(0, first, count);
    const at::Tensor h = swiglu_forward(u, pass.swiglu_limit);
    const at::Tensor g = grad.index_select(0, tokens);

    // Gradient of h before the routing weight: it also gives the weight's own gradient, <g, y> = <g W2, h> + <g, b2>,
    // without y.
    at::Tensor grad_h = g.mm(decoded_expert(experts.down, e, dtype, down_scratch));
    if (pass.down_a.defined()) {
      const ExpertPair pair =
          pair_of(experts.down_low_rank, pass.down_a, pass.down_b, e, dtype, expert_key(pass.dropout, e, 1));
      const at::Tensor grad_reduced = g.mm(pair.b).mul_(pair.scale);
      grad_h += pair.drop(grad_reduced.mm(pair.a));
      const at::Tensor dropped = pair.drop(h);
      result.down_b[e].copy_((g * factor).t().mm(at::linear(dropped, pair.a)).mul_(pair.scale));
      result.down_a[e].copy_((grad_reduced * factor).t().mm(dropped));
    }
    result.factors.narrow(0, first, count)
        .copy_((grad_h.to(at::kFloat) * h.to(at::kFloat)).sum(-1) +
               g.to(at::kFloat).mv(experts.down_bias[e].to(at::kFloat)));
    if (result.down_bias.defined()) result.down_bias[e].copy_((g * factor).sum(0, false, at::kFloat));
    grad_h.mul_(factor);

    const at::Tensor grad_u = swiglu_backward(u, grad_h, pass.swiglu_limit);
    if (result.gate_up_bias.defined()) result.gate_up_bias[e].copy_(grad_u.sum(0, false, at::kFloat));
    at::Tensor grad_rows;
    if (needs_x) grad_rows = grad_u.mm(decoded_expert(experts.gate_up, e, dtype, gate_up_scratch));
    if (pass.gate_up_a.defined()) {
      const ExpertPair pair =
          pair_of(experts.gate_up_low_rank, pass.gate_up_a, pass.gate_up_b, e, dtype, expert_key(pass.dropout, e, 0));
      const at::Tensor dropped = pair.drop(x.index_select(0, tokens));
      const at::Tensor grad_reduced = grad_u.mm(pair.b).mul_(pair.scale);
      if (needs_x) grad_rows += pair.drop(grad_reduced.mm(pair.a));
      result.gate_up_b[e].copy_(grad_u.t().mm(at::linear(dropped, pair.a)).mul_(pair.scale));
      result.gate_up_a[e].copy_(grad_reduced.t().mm(dropped));
    }
    if (needs_x) add_rows(result.x, tokens, grad_rows, {});
  }
  return result;
}

}  // namespace ossature
