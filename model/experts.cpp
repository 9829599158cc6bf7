#include "model/experts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/swiglu.h"

namespace ossature {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Assignments of tokens to experts, sorted by expert; assignment n is slot order[n] % K of token order[n] / K.
struct Assignments {
  at::Tensor order;                   // int64 [T K]
  at::Tensor tokens;                  // int64 [T K]
  std::vector<std::int64_t> offsets;  // [E + 1]: expert e has assignments offsets[e] .. offsets[e + 1]
};

Assignments assign(const at::Tensor& indices, std::int64_t num_experts) {
  Assignments result;
  const at::Tensor flat = indices.reshape(-1);
  result.order = std::get<1>(at::sort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  result.tokens = result.order.div(indices.size(1), "floor");
  const at::Tensor counts = at::bincount(flat, {}, num_experts).cpu();
  result.offsets.assign(static_cast<std::size_t>(num_experts) + 1, 0);
  for (std::int64_t e = 0; e < num_experts; ++e) {
    const auto i = static_cast<std::size_t>(e);
    result.offsets[i + 1] = result.offsets[i] + counts.const_data_ptr<std::int64_t>()[e];
  }
  return result;
}

/// Expert `e` as [O, I] in `dtype`. `scratch` [O, I] bfloat16 is used for MXFP4, so the result lasts until its next
/// use.
at::Tensor decoded(const ExpertWeight& weight, std::int64_t e, at::ScalarType dtype, const at::Tensor& scratch) {
  if (weight.is_packed()) return mxfp4_decode_expert(weight.packed, e, dtype, scratch);
  return weight.dense[e].to(dtype);
}

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

/// Masks of one expert's two inputs must differ from each other's and from other experts'.
DropoutKey key_of(DropoutKey key, std::int64_t e, int projection) {
  key.place = (key.place << 20) + static_cast<std::uint64_t>(2 * e + projection);
  return key;
}

ExpertPair pair_of(const LowRank& pair, const at::Tensor& a, const at::Tensor& b, std::int64_t e, at::ScalarType dtype,
                   DropoutKey key) {
  return {a[e].to(dtype), b[e].to(dtype), pair.scale, pair.dropout, key};
}

/// y += scale * (drop(x) A^T) B^T, y as [N, O].
void add_low_rank(at::Tensor y, const at::Tensor& x, const ExpertPair& pair) {
  y.addmm_(at::linear(pair.drop(x), pair.a), pair.b.t(), 1.0, pair.scale);
}

class ExpertsFunction : public torch::autograd::Function<ExpertsFunction> {
 public:
  /// `pairs` holds A and B of gate_up and then of down, of those that there are: autograd takes no undefined tensor.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weights,
                            at::TensorList pairs, const at::Tensor& indices, const Experts* experts,
                            const ExpertsOptions* options, bool for_backward) {
    const bool has_gate_up = experts->gate_up_low_rank.defined(), has_down = experts->down_low_rank.defined();
    const at::Tensor gate_up_a = has_gate_up ? pairs[0] : at::Tensor(),
                     gate_up_b = has_gate_up ? pairs[1] : at::Tensor();
    const at::Tensor down_a = has_down ? pairs[pairs.size() - 2] : at::Tensor();
    const at::Tensor down_b = has_down ? pairs[pairs.size() - 1] : at::Tensor();
    const auto dtype = x.scalar_type();
    const Assignments assigned = assign(indices, experts->gate_up.num_experts());
    const at::Tensor factors = weights.reshape(-1).index_select(0, assigned.order);
    const bool needs_output = !options->only_for_backward;
    const at::Tensor gate_up_scratch = scratch_for(experts->gate_up, dtype);
    const at::Tensor down_scratch = needs_output ? scratch_for(experts->down, dtype) : at::Tensor();
    const auto width = experts->gate_up.out_features();

    at::Tensor kept = for_backward ? at::empty({assigned.order.size(0), width}, x.options()) : at::Tensor();
    at::Tensor out = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
    for (std::int64_t e = 0; e < experts->gate_up.num_experts(); ++e) {
      const auto first = assigned.offsets[static_cast<std::size_t>(e)];
      const auto count = assigned.offsets[static_cast<std::size_t>(e) + 1] - first;
      if (count == 0) continue;
      const at::Tensor tokens = assigned.tokens.narrow(0, first, count);
      const at::Tensor rows = x.index_select(0, tokens);
      at::Tensor u = kept.defined() ? kept.narrow(0, first, count) : at::empty({count, width}, x.options());
      at::addmm_out(u, experts->gate_up_bias[e].to(dtype), rows,
                    decoded(experts->gate_up, e, dtype, gate_up_scratch).t());
      if (gate_up_a.defined()) {
        add_low_rank(
            u, rows,
            pair_of(experts->gate_up_low_rank, gate_up_a, gate_up_b, e, dtype, key_of(options->dropout, e, 0)));
      }
      if (!needs_output) continue;
      const at::Tensor h = swiglu_forward(u, options->swiglu_limit);
      const at::Tensor y =
          at::linear(h, decoded(experts->down, e, dtype, down_scratch), experts->down_bias[e].to(dtype));
      if (down_a.defined()) {
        add_low_rank(y, h, pair_of(experts->down_low_rank, down_a, down_b, e, dtype, key_of(options->dropout, e, 1)));
      }
      add_rows(out, tokens, y, factors.narrow(0, first, count));
    }

    if (for_backward) {
      context->save_for_backward(
          {x, weights, gate_up_a, gate_up_b, down_a, down_b, assigned.order, assigned.tokens, factors, kept});
      context->saved_data["offsets"] = assigned.offsets;
      context->saved_data["experts"] = reinterpret_cast<std::int64_t>(experts);
      context->saved_data["limit"] = options->swiglu_limit;
      context->saved_data["seed"] = static_cast<std::int64_t>(options->dropout.seed);
      context->saved_data["place"] = static_cast<std::int64_t>(options->dropout.place);
    }
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weights = saved[1], &gate_up_a = saved[2], &gate_up_b = saved[3],
                     &down_a = saved[4], &down_b = saved[5], &order = saved[6], &all_tokens = saved[7],
                     &factors = saved[8], &kept = saved[9];
    const auto* experts = reinterpret_cast<const Experts*>(context->saved_data["experts"].toInt());
    const auto offsets = context->saved_data["offsets"].toIntVector();
    const double limit = context->saved_data["limit"].toDouble();
    const DropoutKey dropout_key{static_cast<std::uint64_t>(context->saved_data["seed"].toInt()),
                                 static_cast<std::uint64_t>(context->saved_data["place"].toInt())};
    const auto dtype = x.scalar_type();
    const at::Tensor grad = grads[0].to(dtype).contiguous();
    const bool needs_x = context->needs_input_grad(0);

    const auto zeros_like = [](const at::Tensor& t) { return t.defined() ? at::zeros_like(t) : at::Tensor(); };
    at::Tensor grad_gate_up_a = zeros_like(gate_up_a), grad_gate_up_b = zeros_like(gate_up_b);
    at::Tensor grad_down_a = zeros_like(down_a), grad_down_b = zeros_like(down_b);
    at::Tensor grad_x = needs_x ? at::zeros(x.sizes(), x.options().dtype(at::kFloat)) : at::Tensor();
    at::Tensor grad_factors = at::empty({order.size(0)}, weights.options());
    const at::Tensor gate_up_scratch = scratch_for(experts->gate_up, dtype);
    const at::Tensor down_scratch = scratch_for(experts->down, dtype);

    for (std::int64_t e = 0; e < experts->gate_up.num_experts(); ++e) {
      const auto first = offsets[static_cast<std::size_t>(e)];
      const auto count = offsets[static_cast<std::size_t>(e) + 1] - first;
      if (count == 0) continue;
      const at::Tensor tokens = all_tokens.narrow(0, first, count);
      const at::Tensor factor = factors.narrow(0, first, count).unsqueeze(1).to(dtype);
      const at::Tensor u = kept.narrow(0, first, count);
      const at::Tensor h = swiglu_forward(u, limit);
      const at::Tensor g = grad.index_select(0, tokens);

      // Gradient of h before the routing weight: it also gives the weight's own gradient, <g, y> = <g W2, h> + <g, b2>,
      // without y.
      at::Tensor grad_h = g.mm(decoded(experts->down, e, dtype, down_scratch));
      if (down_a.defined()) {
        const ExpertPair pair = pair_of(experts->down_low_rank, down_a, down_b, e, dtype, key_of(dropout_key, e, 1));
        const at::Tensor grad_reduced = g.mm(pair.b).mul_(pair.scale);
        grad_h += pair.drop(grad_reduced.mm(pair.a));
        const at::Tensor dropped = pair.drop(h);
        grad_down_b[e].copy_((g * factor).t().mm(at::linear(dropped, pair.a)).mul_(pair.scale));
        grad_down_a[e].copy_((grad_reduced * factor).t().mm(dropped));
      }
      grad_factors.narrow(0, first, count)
          .copy_((grad_h.to(at::kFloat) * h.to(at::kFloat)).sum(-1) +
                 g.to(at::kFloat).mv(experts->down_bias[e].to(at::kFloat)));
      grad_h.mul_(factor);

      const at::Tensor grad_u = swiglu_backward(u, grad_h, limit);
      at::Tensor grad_rows;
      if (needs_x) grad_rows = grad_u.mm(decoded(experts->gate_up, e, dtype, gate_up_scratch));
      if (gate_up_a.defined()) {
        const ExpertPair pair =
            pair_of(experts->gate_up_low_rank, gate_up_a, gate_up_b, e, dtype, key_of(dropout_key, e, 0));
        const at::Tensor dropped = pair.drop(x.index_select(0, tokens));
        const at::Tensor grad_reduced = grad_u.mm(pair.b).mul_(pair.scale);
        if (needs_x) grad_rows += pair.drop(grad_reduced.mm(pair.a));
        grad_gate_up_b[e].copy_(grad_u.t().mm(at::linear(dropped, pair.a)).mul_(pair.scale));
        grad_gate_up_a[e].copy_(grad_reduced.t().mm(dropped));
      }
      if (needs_x) add_rows(grad_x, tokens, grad_rows, {});
    }

    at::Tensor grad_weights = at::empty({weights.numel()}, weights.options());
    grad_weights.index_copy_(0, order, grad_factors);
    variable_list result = {needs_x ? grad_x.to(dtype) : at::Tensor(), grad_weights.view(weights.sizes())};
    if (gate_up_a.defined()) result.insert(result.end(), {grad_gate_up_a, grad_gate_up_b});
    if (down_a.defined()) result.insert(result.end(), {grad_down_a, grad_down_b});
    result.resize(result.size() + 4);  // indices, experts, options, for_backward
    return result;
  }
};

/// Identity whose value lies on the MXFP4 grid.
class OnGrid : public torch::autograd::Function<OnGrid> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& weight) { return mxfp4_round(weight); }
  static variable_list backward(AutogradContext*, variable_list grads) { return {grads[0]}; }
};

at::Tensor composed_product(const ExpertWeight& weight, const at::Tensor& dense, const at::Tensor& bias,
                            const LowRank& pair, std::int64_t e, const at::Tensor& x, DropoutKey key) {
  const auto dtype = x.scalar_type();
  Linear linear{dense.defined() ? dense[e] : decoded(weight, e, dtype, {}), bias[e], {}};
  if (pair.defined()) linear.low_rank = {pair.a[e], pair.b[e], pair.scale, pair.dropout};
  return apply(linear, x, key);
}

}  // namespace

Routing route(const at::Tensor& logits, std::int64_t num_experts_per_tok) {
  auto [values, indices] = at::topk(logits, num_experts_per_tok, -1);
  return {indices, at::softmax(values, -1)};
}

at::Tensor apply(const Experts& experts, const at::Tensor& x, const Routing& routing, const ExpertsOptions& options) {
  const bool trains_weights = !experts.gate_up.is_packed() && experts.gate_up.dense.requires_grad();
  if (trains_weights || !x.device().is_cpu()) return apply_composed(experts, x, routing, options);
  const LowRank &gate_up = experts.gate_up_low_rank, &down = experts.down_low_rank;
  const bool for_backward = at::GradMode::is_enabled() && (x.requires_grad() || routing.weights.requires_grad() ||
                                                           gate_up.defined() || down.defined());
  std::vector<at::Tensor> pairs;
  for (const LowRank* pair : {&gate_up, &down}) {
    if (pair->defined()) pairs.insert(pairs.end(), {pair->a, pair->b});
  }
  return ExpertsFunction::apply(x, routing.weights, at::TensorList(pairs), routing.indices, &experts, &options,
                                for_backward);
}

at::Tensor apply_composed(const Experts& experts, const at::Tensor& x, const Routing& routing,
                          const ExpertsOptions& options) {
  const Assignments assigned = assign(routing.indices, experts.gate_up.num_experts());
  const at::Tensor rows = x.index_select(0, assigned.tokens);
  const auto dense = [&](const ExpertWeight& weight) {
    if (weight.is_packed()) return at::Tensor();
    return options.on_grid ? OnGrid::apply(weight.dense) : weight.dense;
  };
  const at::Tensor gate_up_dense = dense(experts.gate_up), down_dense = dense(experts.down);
  std::vector<at::Tensor> parts;
  for (std::int64_t e = 0; e < experts.gate_up.num_experts(); ++e) {
    const auto first = assigned.offsets[static_cast<std::size_t>(e)];
    const auto count = assigned.offsets[static_cast<std::size_t>(e) + 1] - first;
    if (count == 0) continue;
    const at::Tensor u =
        composed_product(experts.gate_up, gate_up_dense, experts.gate_up_bias, experts.gate_up_low_rank, e,
                         rows.narrow(0, first, count), key_of(options.dropout, e, 0));
    parts.push_back(composed_product(experts.down, down_dense, experts.down_bias, experts.down_low_rank, e,
                                     swiglu(u, options.swiglu_limit), key_of(options.dropout, e, 1)));
  }
  const at::Tensor factors = routing.weights.reshape(-1).index_select(0, assigned.order);
  const at::Tensor y = at::cat(parts, 0).to(at::kFloat) * factors.unsqueeze(1);
  return at::zeros(x.sizes(), y.options()).index_add(0, assigned.tokens, y);
}

}  // namespace ossature
