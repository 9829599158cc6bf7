// Full training: every weight's gradient against a float64 model of its own, the MXFP4 finish, and what is written.
#include "model/network/full_parameters.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/export/export.h"
#include "tests/malformed/scratch.h"
#include "tests/support/golden.h"
#include "tests/support/reference_model.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using testing::expect_gradients;
using testing::ReferenceModel;
using testing::ReferenceWeights;
using testing::same_bytes;
using testing::small;
using testing::Tensors;

/// Two samples and between them one of a single token; some tokens learned, by different weights.
struct Batch {
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  std::vector<std::int64_t> offsets{0, 14, 15, 26};

  Batch() {
    for (std::int32_t t = 0; t < 26; ++t) {
      tokens.push_back((t * 37 + t * t * 11 + 5) % 128);
      weights.push_back(static_cast<float>(t % 4) * 0.5f);
    }
  }
  [[nodiscard]] TokenRows rows() const { return {tokens, weights, offsets}; }
};

/// The small golden in bfloat16, all weights trainable.
struct FullModel {
  Checkpoint checkpoint{small("hf-bf16")};
  Transformer transformer{checkpoint, at::kFloat};
  std::unique_ptr<ParameterSet> parameters = make_trainable(checkpoint, transformer);

  /// Moves every weight off the grids of bfloat16 and MXFP4.
  void disturb() const {
    at::manual_seed(3);
    parameters->values().mul_(1.0 + 0.1 * at::rand_like(parameters->values()));
  }
  [[nodiscard]] ReferenceWeights reference() const {
    ReferenceWeights weights;
    for (const ParameterSpec& spec : parameters->specs())
      weights[spec.name] = parameters->tensor(spec.name).detach().to(at::kDouble).set_requires_grad(true);
    return weights;
  }
};

TEST(FullParameters, GradientOfEveryWeightIsTheReferences) {
  const Batch batch;
  for (const bool recompute : {true, false}) {
    const FullModel model;
    model.disturb();
    const ReferenceWeights weights = model.reference();
    const at::Tensor expected = ReferenceModel(model.checkpoint.config(), weights).loss(batch.rows());
    torch::autograd::backward({expected}, {});
    BackpropagationOptions options;
    options.kept_layers = recompute ? 0 : kAllLayers;
    const LossSum found = backpropagate(model.transformer, batch.rows(), options);
    EXPECT_NEAR(found.loss, expected.item<double>(), 1e-5 * found.loss);
    expect_gradients(*model.parameters, weights);
  }
}

TEST(FullParameters, LogProbabilitiesAreTheReferences) {
  const Batch batch;
  const FullModel model;
  model.disturb();
  const ReferenceWeights weights = model.reference();
  const at::Tensor expected = ReferenceModel(model.checkpoint.config(), weights).log_probs(batch.rows()).detach();
  const at::Tensor found = log_probs(model.transformer, batch.rows());
  for (std::int64_t t = 0; t < found.size(0); ++t) {
    if (t == 0 || t == 14 || t == 15) {
      EXPECT_TRUE(std::isnan(found[t].item<float>())) << t;
    } else {
      EXPECT_NEAR(found[t].item<double>(), expected[t - 1][batch.tokens[static_cast<std::size_t>(t)]].item<double>(),
                  1e-5)
          << t;
    }
  }
}

TEST(FullParameters, RecomputationChangesNoBit) {
  const Batch batch;
  for (const bool on_grid : {false, true}) {
    const FullModel with, without;
    with.disturb();
    without.disturb();
    BackpropagationOptions options;
    options.experts_on_grid = on_grid;
    const LossSum a = backpropagate(with.transformer, batch.rows(), options);
    options.kept_layers = kAllLayers;
    const LossSum b = backpropagate(without.transformer, batch.rows(), options);
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_TRUE(at::equal(with.parameters->gradients(), without.parameters->gradients()));
  }
}

bool is_expert_weight(const std::string& name) {
  return name.ends_with("experts.gate_up_proj") || name.ends_with("experts.down_proj");
}

/// Written for the grid, exported in MXFP4 and decoded: what the forward pass on the grid must have seen, and where its
/// gradients must have been taken.
TEST(FullParameters, OnGridPassesSeeTheExportedWeights) {
  const Batch batch;
  const Scratch scratch;
  const FullModel model;
  model.disturb();
  // Weights that are not experts' are put on bfloat16's grid, so that writing them loses nothing.
  for (const ParameterSpec& spec : model.parameters->specs()) {
    const at::Tensor values = model.parameters->tensor(spec.name).detach();
    if (!is_expert_weight(spec.name)) values.copy_(values.to(at::kBFloat16));
  }
  write_full_checkpoint(*model.parameters, model.checkpoint, true, scratch.path() / "dense");
  export_checkpoint(Checkpoint(scratch.path() / "dense"), {}, {}, scratch.path() / "packed");
  const Checkpoint packed(scratch.path() / "packed");
  ASSERT_EQ(packed.experts(), ExpertStorage::kMxfp4);

  ReferenceWeights weights = model.reference();
  for (auto& [name, value] : weights) {
    if (!is_expert_weight(name)) continue;
    const at::Tensor decoded = mxfp4_decode(packed.expert_weight(name).packed, at::kFloat);
    EXPECT_TRUE(same_bytes(decoded, Checkpoint(scratch.path() / "dense").expert_weight(name).dense.to(at::kFloat)));
    EXPECT_GT((decoded - value.detach()).abs().max().item<double>(), 1e-3) << "nothing was rounded";
    value = decoded.to(at::kDouble).set_requires_grad(true);
  }
  const at::Tensor expected = ReferenceModel(model.checkpoint.config(), weights).loss(batch.rows());
  torch::autograd::backward({expected}, {});
  BackpropagationOptions options;
  options.experts_on_grid = true;
  const LossSum found = backpropagate(model.transformer, batch.rows(), options);
  EXPECT_NEAR(found.loss, expected.item<double>(), 1e-5 * found.loss);
  EXPECT_NEAR(evaluate(model.transformer, batch.rows(), true).loss, expected.item<double>(), 1e-5 * found.loss);
  expect_gradients(*model.parameters, weights);
  const Transformer exported(packed, at::kFloat);
  EXPECT_NEAR(evaluate(exported, batch.rows()).loss, found.loss, 1e-5 * found.loss);
  EXPECT_GT(std::abs(evaluate(model.transformer, batch.rows(), false).loss - found.loss), 1e-3);
}

TEST(FullParameters, WrittenAtOnceTheCheckpointIsTheOldOne) {
  const Scratch scratch;
  const FullModel model;
  write_full_checkpoint(*model.parameters, model.checkpoint, false, scratch.path() / "out");
  const Tensors before = testing::read_all_tensors(small("hf-bf16"));
  const Tensors after = testing::read_all_tensors(scratch.path() / "out");
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, tensor] : before) EXPECT_TRUE(same_bytes(after.at(name), tensor)) << name;
  EXPECT_EQ(read_config(scratch.path() / "out/config.json"), model.checkpoint.config());
}

TEST(FullParameters, WrittenValuesAreRoundedToBfloat16) {
  const Scratch scratch;
  const FullModel model;
  model.disturb();
  write_full_checkpoint(*model.parameters, model.checkpoint, false, scratch.path() / "out");
  const Tensors written = testing::read_all_tensors(scratch.path() / "out");
  ASSERT_EQ(written.size(), model.parameters->specs().size());
  for (const ParameterSpec& spec : model.parameters->specs()) {
    at::Tensor expected = model.parameters->tensor(spec.name).detach().to(at::kBFloat16);
    if (is_expert_weight(spec.name)) expected = expected.transpose(1, 2);
    EXPECT_TRUE(same_bytes(written.at(spec.name), expected)) << spec.name;
  }
}

TEST(FullParameters, OnlyMatricesDecay) {
  const FullModel model;
  std::size_t decayed = 0;
  std::int64_t values = 0;
  for (const ParameterSpec& spec : model.parameters->specs()) {
    const bool is_vector =
        spec.name.ends_with("norm.weight") || spec.name.ends_with("bias") || spec.name.ends_with("sinks");
    EXPECT_EQ(spec.decay, !is_vector) << spec.name;
    if (spec.decay) values += model.parameters->tensor(spec.name).numel();
    decayed += spec.decay ? 1 : 0;
  }
  EXPECT_EQ(decayed, 3U * 7U + 2U);  // q k v o, router and two of the experts a layer; embedding and head
  EXPECT_EQ(model.parameters->num_decayed(), values);
}

TEST(FullParameters, Mxfp4CheckpointIsRefused) {
  const Checkpoint checkpoint(small("hf"));
  Transformer transformer(checkpoint, at::kFloat);
  EXPECT_THROW((void)make_trainable(checkpoint, transformer), CheckpointError);
}

TEST(FullParameters, WritingOverAnythingIsRefused) {
  const Scratch scratch;
  const FullModel model;
  scratch.write("out/precious", "x");
  EXPECT_THROW(write_full_checkpoint(*model.parameters, model.checkpoint, false, scratch.path() / "out"),
               CheckpointError);
  EXPECT_EQ(read_bytes(scratch.path() / "out/precious"), "x");
  // A value that cannot be rounded to the grid fails midway and leaves nothing.
  model.parameters->tensor("model.layers.2.mlp.experts.down_proj")
      .detach()
      .fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THROW(write_full_checkpoint(*model.parameters, model.checkpoint, true, scratch.path() / "new"),
               CheckpointError);
  std::size_t left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) left += entry.exists();
  EXPECT_EQ(left, 1U);
}

}  // namespace
}  // namespace ossature
