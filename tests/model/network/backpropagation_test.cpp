// Backpropagation layer by layer where the batch or the adapter is unusual. Values and gradients in general: see
// golden_test.cpp and full_parameters_test.cpp.
#include "model/network/backpropagation.h"

#include <gtest/gtest.h>

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/loaded_model.h"
#include "model/network/placed_rows.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using testing::small;

/// Tokens of any kind, all of them learned.
struct Batch {
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  std::vector<std::int64_t> offsets;

  explicit Batch(std::vector<std::int64_t> sample_offsets) : offsets(std::move(sample_offsets)) {
    for (std::int32_t t = 0; t < offsets.back(); ++t) tokens.push_back((t * t * 7 + t * 29 + 3) % 128);
    weights.assign(tokens.size(), 1.0f);
  }
  [[nodiscard]] TokenRows rows() const { return {tokens, weights, offsets, 0}; }
};

/// The small golden with an adapter on everything in some layers; in others the pairs are there but B is zero, or there
/// are none. Values depend on the target's name alone.
struct Adapted {
  Transformer transformer{Checkpoint(small("hf")), at::kFloat};
  Lora lora;

  Adapted(const std::vector<std::int64_t>& layers, const std::vector<std::int64_t>& nonzero, double dropout = 0.0)
      : lora(config_of(layers, dropout), transformer.config(), 0) {
    for (const LoraTarget& target : lora.targets()) {
      at::manual_seed(std::hash<std::string>()(target.name));
      lora.a(target).detach().normal_(0.0, 0.2);
      const bool is_zero = std::find(nonzero.begin(), nonzero.end(), target.layer) == nonzero.end();
      lora.b(target).detach().normal_(0.0, 0.2).mul_(is_zero ? 0.0 : 1.0);
    }
    lora.attach(transformer);
  }

  static LoraConfig config_of(const std::vector<std::int64_t>& layers, double dropout) {
    LoraConfig config;
    config.r = 2;
    config.lora_dropout = dropout;
    config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
    config.layers_to_transform = layers;
    for (const auto layer : layers) {
      for (const char* name : {"router.weight", "experts.gate_up_proj", "experts.down_proj"})
        config.target_parameters.push_back(std::to_string(layer) + ".mlp." + name);
    }
    return config;
  }
};

TEST(Backpropagation, NothingLearnedIsNothingDone) {
  Batch batch({0, 5, 9});
  batch.weights.assign(9, 0.0f);
  const Adapted model({0, 1, 2}, {0, 1, 2});
  const LossSum sum = backpropagate(model.transformer, batch.rows(), {});
  EXPECT_EQ(sum.loss, 0.0);
  EXPECT_EQ(sum.weight, 0.0);
  EXPECT_EQ(sum.num_learned, 0);
  EXPECT_EQ(model.lora.parameters().gradient_norm(), 0.0);
  EXPECT_EQ(evaluate(model.transformer, batch.rows()).loss, 0.0);
}

TEST(Backpropagation, FirstTokensHaveNoLoss) {
  Batch batch({0, 5, 9});
  batch.weights.assign(9, 0.0f);
  batch.weights[0] = batch.weights[5] = 1.0f;
  const Adapted model({0, 1, 2}, {0, 1, 2});
  EXPECT_EQ(backpropagate(model.transformer, batch.rows(), {}).num_learned, 0);
  EXPECT_EQ(model.lora.parameters().gradient_norm(), 0.0);
}

TEST(Backpropagation, SamplesOfOneTokenOnly) {
  const Batch batch({0, 1, 2, 3});
  const Adapted model({0, 1, 2}, {0, 1, 2});
  EXPECT_EQ(backpropagate(model.transformer, batch.rows(), {}).num_learned, 0);
  EXPECT_TRUE(log_probs(model.transformer, batch.rows()).isnan().all().item<bool>());
  EXPECT_TRUE(forward(model.transformer, batch.rows()).isfinite().all().item<bool>());
}

/// Samples of one token or of none between others change no loss and, to rounding, no gradient.
TEST(Backpropagation, ShortSamplesBetweenOthersDoNotMatter) {
  const Batch plain({0, 10, 21});
  Batch mixed({0, 1, 1, 11, 12, 23, 23});
  mixed.tokens[0] = mixed.tokens[11] = 77;
  std::copy_n(plain.tokens.begin(), 10, mixed.tokens.begin() + 1);
  std::copy_n(plain.tokens.begin() + 10, 11, mixed.tokens.begin() + 12);
  for (const bool recompute : {true, false}) {
    BackpropagationOptions options;
    options.kept_layers = recompute ? 0 : kAllLayers;
    const Adapted a({0, 1, 2}, {0, 1, 2}), b({0, 1, 2}, {0, 1, 2});
    const LossSum expected = backpropagate(a.transformer, plain.rows(), options);
    const LossSum found = backpropagate(b.transformer, mixed.rows(), options);
    EXPECT_EQ(found.num_learned, expected.num_learned);
    EXPECT_NEAR(found.loss, expected.loss, 1e-5 * expected.loss);
    const at::Tensor difference = b.lora.parameters().gradients() - a.lora.parameters().gradients();
    EXPECT_LT(difference.norm().item<double>(), 1e-5 * a.lora.parameters().gradient_norm());
  }
}

/// With pairs in some layers only, gradients are those of the same pairs where the other layers have pairs of zero
/// effect: to the bit, though below the first trained layer nothing is backpropagated.
class SomeLayers : public ::testing::TestWithParam<std::vector<std::int64_t>> {};

TEST_P(SomeLayers, HaveTheGradientsThatTheyHaveAmongAll) {
  const Batch batch({0, 13, 24});
  for (const bool recompute : {true, false}) {
    BackpropagationOptions options;
    options.kept_layers = recompute ? 0 : kAllLayers;
    const Adapted some(GetParam(), GetParam()), all({0, 1, 2}, GetParam());
    const LossSum found = backpropagate(some.transformer, batch.rows(), options);
    EXPECT_EQ(found.loss, backpropagate(all.transformer, batch.rows(), options).loss);
    EXPECT_EQ(some.lora.targets().size(), 7U * GetParam().size());
    for (const LoraTarget& target : some.lora.targets()) {
      EXPECT_GT(some.lora.a(target).grad().norm().item<double>(), 0.0) << target.name;
      EXPECT_GT(some.lora.b(target).grad().norm().item<double>(), 0.0) << target.name;
      EXPECT_TRUE(at::equal(some.lora.a(target).grad(), all.lora.a(target).grad())) << target.name;
      EXPECT_TRUE(at::equal(some.lora.b(target).grad(), all.lora.b(target).grad())) << target.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, SomeLayers,
                         ::testing::Values(std::vector<std::int64_t>{0}, std::vector<std::int64_t>{1},
                                           std::vector<std::int64_t>{2}, std::vector<std::int64_t>{0, 2}));

TEST(Backpropagation, RecomputationChangesNoBitWithDropoutInSomeLayers) {
  const Batch batch({0, 1, 13, 24});
  BackpropagationOptions off;
  off.kept_layers = kAllLayers;
  TokenRows rows = batch.rows();
  rows.dropout_seed = 11;
  const Adapted a({1}, {1}, 0.4), b({1}, {1}, 0.4);
  EXPECT_EQ(backpropagate(a.transformer, rows, {}).loss, backpropagate(b.transformer, rows, off).loss);
  EXPECT_TRUE(at::equal(a.lora.parameters().gradients(), b.lora.parameters().gradients()));
  const Adapted c({1}, {1}, 0.4);
  rows.dropout_seed = 12;
  EXPECT_NE(backpropagate(c.transformer, rows, {}).loss, evaluate(c.transformer, batch.rows()).loss);
  EXPECT_FALSE(at::equal(a.lora.parameters().gradients(), c.lora.parameters().gradients()));
}

/// Some layers kept and others not, and micro-batches together or one after another, paged or not.
TEST(Backpropagation, NeitherKeptLayersNorPagingNorTogethernessChangeABit) {
  Batch first({0, 13, 24}), nothing({0, 5}), second({0, 30});
  nothing.weights.assign(5, 0.0f);
  std::vector<TokenRows> rows{first.rows(), nothing.rows(), second.rows()};
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].dropout_seed = 20 + i;
  const Adapted expected({1, 2}, {1, 2}, 0.4);
  double loss = 0.0;
  for (const TokenRows& one : rows) loss += backpropagate(expected.transformer, one, {}).loss;
  for (const std::int64_t kept : {0, 1, 2, 3}) {
    Adapted found({1, 2}, {1, 2}, 0.4);
    BackpropagationOptions options;
    options.kept_layers = kept;
    if (kept != 1) found.transformer.read_as_used(kept);
    const LossSum sum = backpropagate(found.transformer, rows, options);
    EXPECT_EQ(sum.loss, loss) << kept;
    EXPECT_EQ(sum.num_learned, 22 + 29);
    EXPECT_EQ(sum.weight, 22 + 29);
    EXPECT_TRUE(at::equal(found.lora.parameters().gradients(), expected.lora.parameters().gradients())) << kept;
  }
}

TEST(Backpropagation, WithoutAnyAdapterTheLossIsStillRight) {
  const Batch batch({0, 13, 24});
  const Transformer transformer(Checkpoint(small("hf")), at::kFloat);
  for (const bool recompute : {true, false}) {
    BackpropagationOptions options;
    options.kept_layers = recompute ? 0 : kAllLayers;
    const LossSum found = backpropagate(transformer, batch.rows(), options);
    const at::Tensor all = log_probs(transformer, batch.rows());
    EXPECT_NEAR(found.loss, -all.nansum().item<double>(), 1e-4);
    EXPECT_EQ(found.num_learned, 22);
  }
}

TEST(Backpropagation, WeightsScaleLossAndGradientsAddUp) {
  Batch once({0, 13, 24});
  const Adapted a({0, 1, 2}, {0, 1, 2}), b({0, 1, 2}, {0, 1, 2});
  const LossSum single = backpropagate(a.transformer, once.rows(), {});
  (void)backpropagate(a.transformer, once.rows(), {});
  for (float& weight : once.weights) weight = 2.0f;
  const LossSum twice = backpropagate(b.transformer, once.rows(), {});
  EXPECT_DOUBLE_EQ(twice.loss, 2.0 * single.loss);
  EXPECT_EQ(twice.weight, 44.0);
  EXPECT_TRUE(at::allclose(a.lora.parameters().gradients(), b.lora.parameters().gradients(), 1e-5, 1e-6));
}

TEST(RouterLoad, CountsEachTokenOnceHoweverLayersRun) {
  const Batch first({0, 13, 24}), second({0, 30});
  const std::vector<TokenRows> rows{first.rows(), second.rows()};
  const Adapted model({1, 2}, {1, 2});
  const ModelConfig& config = model.transformer.config();
  // What the router says, layer by layer, by its definition.
  std::vector<std::vector<std::int64_t>> expected;
  for (std::size_t n = 0; n < model.transformer.layers().size(); ++n)
    expected.emplace_back(static_cast<std::size_t>(config.num_local_experts));
  for (const TokenRows& one : rows) {
    const at::NoGradGuard no_grad;
    const PlacedRows placed(model.transformer, one);
    const Pass pass{placed.layout, placed.rope};
    at::Tensor x = model.transformer.embed(placed.tokens);
    for (std::size_t n = 0; n < expected.size(); ++n) {
      const auto layer = static_cast<std::int64_t>(n);
      const Layer& weights = model.transformer.layers()[n];
      const Transformer::Projected projected = model.transformer.project(layer, x, pass);
      const at::Tensor out = attention(projected.q, projected.k, projected.v, weights.sinks.to(at::kFloat), pass.layout,
                                       weights.sliding, model.transformer.attention_scale());
      const at::Tensor chosen =
          model.transformer.expert_input(layer, x, out.reshape({x.size(0), config.query_size()}), pass).routing.indices;
      for (std::int64_t e = 0; e < config.num_local_experts; ++e)
        expected[n][static_cast<std::size_t>(e)] += chosen.eq(e).sum().item<std::int64_t>();
      x = model.transformer.run_layer(layer, x, pass);
    }
  }
  for (const std::int64_t kept : {0, 1, 3}) {
    for (const bool together : {false, true}) {
      RouterLoad load(config.num_hidden_layers, config.num_local_experts);
      BackpropagationOptions options;
      options.kept_layers = kept;
      options.router_load = &load;
      if (together) {
        (void)backpropagate(model.transformer, rows, options);
      } else {
        for (const TokenRows& one : rows) (void)backpropagate(model.transformer, one, options);
      }
      EXPECT_EQ(load.tokens(), expected) << kept << " layers kept";
    }
  }
}

TEST(RouterLoad, LargestOverMean) {
  RouterLoad load(3, 4);
  load.add(0, at::tensor({0, 1, 2, 3, 0, 1}, at::kLong).view({3, 2}));  // 2 of a mean of 1.5
  load.add(1, at::tensor({2, 3, 2, 3}, at::kLong).view({2, 2}));
  EXPECT_EQ(load.largest_over_mean(), (std::vector<double>{1.333, 2.0, 0.0}));
}

}  // namespace
}  // namespace ossature
