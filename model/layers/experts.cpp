#include "model/layers/experts.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/layers/expert_assignments.h"
#include "model/layers/experts_kernels.h"
#include "model/layers/swiglu.h"
#include "model/layers/vector_product.h"

namespace ossature {

DropoutKey expert_key(DropoutKey key, std::int64_t e, int projection) {
  key.place = (key.place << 20) + static_cast<std::uint64_t>(2 * e + projection);
  return key;
}

ExpertsGradients zero_gradients(const ExpertsPass& pass, bool needs_x) {
  const auto zeros_like = [](const at::Tensor& t) { return t.defined() ? at::zeros_like(t.detach()) : at::Tensor(); };
  ExpertsGradients result;
  result.gate_up_a = zeros_like(pass.gate_up_a);
  result.gate_up_b = zeros_like(pass.gate_up_b);
  result.down_a = zeros_like(pass.down_a);
  result.down_b = zeros_like(pass.down_b);
  const auto zeros_of_trained = [](const at::Tensor& t) {
    return t.requires_grad() ? at::zeros(t.sizes(), t.options().dtype(at::kFloat)) : at::Tensor();
  };
  result.gate_up_bias = zeros_of_trained(pass.experts.gate_up_bias);
  result.down_bias = zeros_of_trained(pass.experts.down_bias);
  if (needs_x) result.x = at::zeros(pass.x.sizes(), pass.x.options().dtype(at::kFloat));
  return result;
}

at::Tensor decoded_expert(const ExpertWeight& weight, std::int64_t e, at::ScalarType dtype, const at::Tensor& scratch) {
  if (weight.is_packed()) return mxfp4_decode_expert(weight.packed, e, dtype, scratch);
  return weight.dense[e].to(dtype);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What `pairs` holds: A and B of gate_up and then of down, of those that there are; autograd takes no undefined
/// tensor.
struct PairList {
  at::Tensor gate_up_a, gate_up_b, down_a, down_b;

  PairList(const Experts& experts, at::TensorList pairs) {
    if (experts.gate_up_low_rank.defined()) {
      gate_up_a = pairs[0];
      gate_up_b = pairs[1];
    }
    if (experts.down_low_rank.defined()) {
      down_a = pairs[pairs.size() - 2];
      down_b = pairs[pairs.size() - 1];
    }
  }
};

class ExpertsFunction : public torch::autograd::Function<ExpertsFunction> {
 public:
  /// The biases, which are those of `experts`, stand here for autograd to know them.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weights,
                            at::TensorList pairs, const at::Tensor& /*gate_up_bias*/, const at::Tensor& /*down_bias*/,
                            const at::Tensor& indices, const Experts* experts, const ExpertsOptions* options,
                            bool for_backward) {
    const PairList list(*experts, pairs);
    const Assignments assigned = assign(indices, experts->gate_up.num_experts());
    const at::Tensor factors = weights.reshape(-1).index_select(0, assigned.order);
    const ExpertsPass pass{
        *experts,    assigned,    x.contiguous(),        factors,         list.gate_up_a, list.gate_up_b,
        list.down_a, list.down_b, options->swiglu_limit, options->dropout};
    ExpertsKept kept;
    if (!for_backward && takes_vectors(pass)) return vector_forward(pass);
    const bool tiled = takes_tiles(*experts, x);
    const at::Tensor out =
        (tiled ? tiled_forward : serial_forward)(pass, !options->only_for_backward, for_backward ? &kept : nullptr);
    if (for_backward) {
      variable_list saved{pass.x,  weights, assigned.order,       assigned.tokens,
                          factors, kept.u,  kept.gate_up_reduced, kept.down_reduced};
      saved.insert(saved.end(), pairs.begin(), pairs.end());
      context->save_for_backward(saved);
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
    const at::Tensor &x = saved[0], &weights = saved[1], &factors = saved[4];
    const at::TensorList pairs = at::TensorList(saved).slice(8);
    const auto* experts = reinterpret_cast<const Experts*>(context->saved_data["experts"].toInt());
    const PairList list(*experts, pairs);
    const Assignments assigned{saved[2], saved[3], context->saved_data["offsets"].toIntVector()};
    const ExpertsPass pass{*experts,
                           assigned,
                           x,
                           factors,
                           list.gate_up_a,
                           list.gate_up_b,
                           list.down_a,
                           list.down_b,
                           context->saved_data["limit"].toDouble(),
                           {static_cast<std::uint64_t>(context->saved_data["seed"].toInt()),
                            static_cast<std::uint64_t>(context->saved_data["place"].toInt())}};
    const ExpertsKept kept{saved[5], saved[6], saved[7]};
    const at::Tensor grad = grads[0].to(x.scalar_type()).contiguous();
    const bool needs_x = context->needs_input_grad(0);
    const ExpertsGradients found =
        (takes_tiles(*experts, x) ? tiled_backward : serial_backward)(pass, kept, grad, needs_x);

    at::Tensor grad_weights = at::empty({weights.numel()}, weights.options());
    grad_weights.index_copy_(0, assigned.order, found.factors);
    variable_list result = {needs_x ? found.x.to(x.scalar_type()) : at::Tensor(), grad_weights.view(weights.sizes())};
    if (found.gate_up_a.defined()) result.insert(result.end(), {found.gate_up_a, found.gate_up_b});
    if (found.down_a.defined()) result.insert(result.end(), {found.down_a, found.down_b});
    result.insert(result.end(), {found.gate_up_bias, found.down_bias});
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
  Linear linear{dense.defined() ? dense[e] : decoded_expert(weight, e, dtype, {}), bias[e], {}};
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
  const bool for_backward =
      at::GradMode::is_enabled() &&
      (x.requires_grad() || routing.weights.requires_grad() || gate_up.defined() || down.defined() ||
       experts.gate_up_bias.requires_grad() || experts.down_bias.requires_grad());
  std::vector<at::Tensor> pairs;
  for (const LowRank* pair : {&gate_up, &down}) {
    if (pair->defined()) pairs.insert(pairs.end(), {pair->a, pair->b});
  }
  return ExpertsFunction::apply(x, routing.weights, at::TensorList(pairs), experts.gate_up_bias, experts.down_bias,
                                routing.indices, &experts, &options, for_backward);
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
                         rows.narrow(0, first, count), expert_key(options.dropout, e, 0));
    parts.push_back(composed_product(experts.down, down_dense, experts.down_bias, experts.down_low_rank, e,
                                     swiglu(u, options.swiglu_limit), expert_key(options.dropout, e, 1)));
  }
  const at::Tensor factors = routing.weights.reshape(-1).index_select(0, assigned.order);
  const at::Tensor y = at::cat(parts, 0).to(at::kFloat) * factors.unsqueeze(1);
  return at::zeros(x.sizes(), y.options()).index_add(0, assigned.tokens, y);
}

}  // namespace ossature
