// Every tensor that is not an expert weight, trained beside packed experts: gradients against a float64 model of its
// own.
#include "model/network/transformer_tensors.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/adapter/loaded_model.h"
#include "model/network/distillation.h"
#include "model/network/parameters.h"
#include "tests/support/golden.h"
#include "tests/support/reference_model.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using testing::expect_gradients;
using testing::Golden;
using testing::ReferenceModel;
using testing::ReferenceWeights;
using testing::relative_error;
using testing::small;

/// The small golden in MXFP4; tensors that are not expert weights are float32 leaves where `trains` says so.
struct Packed {
  Checkpoint checkpoint{small("hf")};
  Transformer transformer{checkpoint, at::kFloat};
  std::unique_ptr<ParameterSet> parameters;

  explicit Packed(const std::function<bool(const std::string&)>& trains) {
    std::vector<ParameterSpec> specs;
    for (const TensorShape& tensor : tensor_shapes(checkpoint.config()))
      if (!tensor.is_expert_weight && trains(tensor.name)) specs.push_back({tensor.name, tensor.shape});
    parameters = std::make_unique<ParameterSet>(std::move(specs), at::kCPU);
    for (const ParameterSpec& spec : parameters->specs()) {
      const at::Tensor& leaf = parameters->tensor(spec.name);
      leaf.detach().copy_(checkpoint.tensor(spec.name));
      tensor_of(transformer, spec.name) = leaf;
    }
  }
  [[nodiscard]] ReferenceWeights reference() const {
    ReferenceWeights weights;
    for (const TensorShape& tensor : tensor_shapes(checkpoint.config())) {
      const at::Tensor value = tensor.is_expert_weight
                                   ? mxfp4_decode(checkpoint.expert_weight(tensor.name).packed, at::kFloat)
                                   : checkpoint.tensor(tensor.name);
      weights[tensor.name] = value.to(at::kDouble).set_requires_grad(!tensor.is_expert_weight);
    }
    return weights;
  }
};

bool all(const std::string&) {
  return true;
}

TEST(TransformerTensors, GradientsBesidePackedExpertsAreTheReferences) {
  const Golden golden(small(""));
  for (const std::int64_t kept : {std::int64_t{0}, kAllLayers}) {
    const Packed model(all);
    const ReferenceWeights weights = model.reference();
    torch::autograd::backward({ReferenceModel(model.checkpoint.config(), weights).loss(golden.rows())}, {});
    BackpropagationOptions options;
    options.kept_layers = kept;
    (void)backpropagate(model.transformer, golden.rows(), options);
    expect_gradients(*model.parameters, weights);
  }
}

TEST(TransformerTensors, GradientsOfTheDivergenceFromATeacherAreTheReferences) {
  const Golden golden(small(""));
  const LoadedModel teacher = load_model(small("hf"), small("adapter-trained"), at::kFloat);
  const Packed model(all);
  const ReferenceWeights weights = model.reference();
  const std::vector<TokenRows> rows{golden.row(0), golden.row(1)};
  std::vector<at::Tensor> hidden;
  at::Tensor expected = at::zeros({}, at::kDouble);
  for (const TokenRows& row : rows) {
    const Targets targets = targets_of(row.tokens, row.loss_weights, row.sample_offsets);
    hidden.push_back(forward(teacher.transformer, row));
    const at::Tensor log_p =
        at::log_softmax(head_logits(teacher.transformer, hidden.back().index_select(0, targets.rows)), -1)
            .to(at::kDouble);
    const at::Tensor log_q =
        ReferenceModel(model.checkpoint.config(), weights).log_probs(row).index_select(0, targets.rows);
    expected = expected + ((log_p.exp() * (log_p - log_q)).sum(-1) * targets.weights).sum();
  }
  torch::autograd::backward({expected}, {});
  BackpropagationOptions options;
  options.head = [&](std::size_t i, const at::Tensor& student, const Targets& targets) {
    return distillation_loss(model.transformer, student, {teacher.transformer, hidden[i]}, targets);
  };
  const LossSum found = backpropagate(model.transformer, rows, options);
  EXPECT_NEAR(found.loss, expected.item<double>(), 1e-4 * found.loss);
  expect_gradients(*model.parameters, weights);
}

/// What lies below is not backpropagated, and what trains is found whatever it is.
TEST(TransformerTensors, OneAloneHasTheGradientThatItHasAmongAll) {
  const Golden golden(small(""));
  const Packed whole(all);
  (void)backpropagate(whole.transformer, golden.rows(), {});
  for (const char* name :
       {"self_attn.sinks", "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.bias",
        "self_attn.o_proj.weight", "mlp.router.bias", "mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias"}) {
    const std::string full = std::string("model.layers.1.") + name;
    const Packed alone([&](const std::string& other) { return other == full; });
    ASSERT_EQ(alone.parameters->specs().size(), 1U) << full;
    (void)backpropagate(alone.transformer, golden.rows(), {});
    EXPECT_LT(relative_error(alone.parameters->tensor(full).grad(), whole.parameters->tensor(full).grad()), 1e-5)
        << full;
  }
}

}  // namespace
}  // namespace ossature
