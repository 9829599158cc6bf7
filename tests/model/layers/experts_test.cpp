// The expert layer against its definition in float64, token by token, values and every gradient.
#include "model/layers/experts.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/layers/swiglu.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

constexpr std::int64_t kExperts = 5, kHidden = 32, kIntermediate = 64, kTokens = 23, kPerToken = 2, kRank = 3;
constexpr double kLimit = 7.0;

LowRank random_pair(std::int64_t out, std::int64_t in, double dropout) {
  return {at::randn({kExperts, kRank, in}).mul_(0.2).set_requires_grad(true),
          at::randn({kExperts, out, kRank}).mul_(0.2).set_requires_grad(true), 1.5, dropout};
}

struct Setting {
  bool gate_up_pair, down_pair;
  double dropout = 0.0;
  bool trains_biases = false;
};

struct Fixture {
  Experts experts;
  at::Tensor x, logits;

  explicit Fixture(const Setting& setting) {
    at::manual_seed(7);
    experts.gate_up.packed = mxfp4_encode(at::randn({kExperts, 2 * kIntermediate, kHidden}));
    experts.down.packed = mxfp4_encode(at::randn({kExperts, kHidden, kIntermediate}).mul_(0.2));
    experts.gate_up_bias = at::randn({kExperts, 2 * kIntermediate});
    experts.down_bias = at::randn({kExperts, kHidden});
    experts.gate_up_bias.set_requires_grad(setting.trains_biases);
    experts.down_bias.set_requires_grad(setting.trains_biases);
    if (setting.gate_up_pair) experts.gate_up_low_rank = random_pair(2 * kIntermediate, kHidden, setting.dropout);
    if (setting.down_pair) experts.down_low_rank = random_pair(kHidden, kIntermediate, setting.dropout);
    x = at::randn({kTokens, kHidden}).set_requires_grad(true);
    logits = at::randn({kTokens, kExperts});
    logits.select(1, 3).fill_(-100.0);  // an expert that no token takes
    logits.set_requires_grad(true);
  }

  [[nodiscard]] std::vector<at::Tensor> leaves() const {
    std::vector<at::Tensor> all{x, logits};
    for (const LowRank* pair : {&experts.gate_up_low_rank, &experts.down_low_rank}) {
      if (pair->defined()) all.insert(all.end(), {pair->a, pair->b});
    }
    for (const at::Tensor& bias : {experts.gate_up_bias, experts.down_bias})
      if (bias.requires_grad()) all.push_back(bias);
    return all;
  }
};

/// One weight with its pair and without dropout, in float64.
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const LowRank& pair,
                   std::int64_t e) {
  at::Tensor y = at::linear(x, weight[e], bias[e].to(at::kDouble));
  if (pair.defined()) {
    const at::Tensor delta = at::mm(pair.b[e].to(at::kDouble), pair.a[e].to(at::kDouble)) * pair.scale;
    y = y + at::linear(x, delta);
  }
  return y;
}

at::Tensor definition(const Fixture& f) {
  const at::Tensor gate_up = mxfp4_decode(f.experts.gate_up.packed, at::kFloat).to(at::kDouble);
  const at::Tensor down = mxfp4_decode(f.experts.down.packed, at::kFloat).to(at::kDouble);
  const auto [values, indices] = at::topk(f.logits.to(at::kDouble), kPerToken, -1);
  const at::Tensor weights = at::softmax(values, -1);
  std::vector<at::Tensor> rows;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    at::Tensor sum = at::zeros({kHidden}, at::kDouble);
    for (std::int64_t k = 0; k < kPerToken; ++k) {
      const auto e = indices[t][k].item<std::int64_t>();
      const at::Tensor u =
          product(f.x[t].to(at::kDouble), gate_up, f.experts.gate_up_bias, f.experts.gate_up_low_rank, e);
      const at::Tensor gate = u.slice(0, 0, std::nullopt, 2).clamp_max(kLimit);
      const at::Tensor up = u.slice(0, 1, std::nullopt, 2).clamp(-kLimit, kLimit);
      const at::Tensor h = gate * at::sigmoid(kSwigluAlpha * gate) * (up + 1);
      sum = sum + weights[t][k] * product(h, down, f.experts.down_bias, f.experts.down_low_rank, e);
    }
    rows.push_back(sum);
  }
  return at::stack(rows);
}

std::vector<at::Tensor> gradients(const Fixture& f, const at::Tensor& y) {
  at::manual_seed(8);
  torch::autograd::backward({y}, {at::randn(y.sizes()).to(y.scalar_type())});
  std::vector<at::Tensor> grads;
  for (const at::Tensor& leaf : f.leaves()) {
    grads.push_back(leaf.grad().clone());
    leaf.mutable_grad().reset();
  }
  return grads;
}

at::Tensor run(const Fixture& f, std::uint64_t dropout_seed = 0, bool only_for_backward = false) {
  return apply(f.experts, f.x, route(f.logits, kPerToken), {kLimit, {dropout_seed, 3}, only_for_backward, false});
}

class ExpertSettings : public ::testing::TestWithParam<Setting> {};

TEST_P(ExpertSettings, ValuesAndGradientsEqualTheDefinition) {
  const Fixture f(GetParam());
  const at::Tensor expected = definition(f);
  const auto expected_grads = gradients(f, expected);
  const at::Tensor found = run(f);
  EXPECT_LT(testing::relative_error(found, expected), 1e-6);
  const auto grads = gradients(f, found);
  for (std::size_t n = 0; n < grads.size(); ++n) {
    EXPECT_LT(testing::relative_error(grads[n], expected_grads[n]), 2e-6) << "leaf " << n;
  }
}

TEST_P(ExpertSettings, ComposedIsTheSame) {
  const Fixture f(GetParam());
  const Routing routing = route(f.logits, kPerToken);
  const ExpertsOptions options{kLimit, {11, 3}, false, false};
  const at::Tensor composed = apply_composed(f.experts, f.x, routing, options);
  const auto expected = gradients(f, composed);
  const at::Tensor found = run(f, 11);
  EXPECT_LT(testing::relative_error(found, composed), 1e-6);
  const auto grads = gradients(f, found);
  for (std::size_t n = 0; n < grads.size(); ++n) {
    EXPECT_LT(testing::relative_error(grads[n], expected[n]), 2e-6) << "leaf " << n;
  }
}

TEST_P(ExpertSettings, BackwardAloneGivesTheSameBits) {
  const Fixture f(GetParam());
  const auto expected = gradients(f, run(f, 5));
  const auto grads = gradients(f, run(f, 5, true));
  for (std::size_t n = 0; n < grads.size(); ++n) EXPECT_TRUE(at::equal(grads[n], expected[n])) << "leaf " << n;
}

INSTANTIATE_TEST_SUITE_P(Pairs, ExpertSettings,
                         ::testing::Values(Setting{false, false}, Setting{true, false}, Setting{false, true},
                                           Setting{true, true}, Setting{true, true, 0.3},
                                           Setting{false, false, 0.0, true}, Setting{true, true, 0.3, true}));

TEST(Experts, AnExpertWithoutTokensGetsZeroGradient) {
  const Fixture f({true, true, 0.0, true});
  const auto grads = gradients(f, run(f));
  for (std::size_t n = 2; n < grads.size(); ++n) {
    EXPECT_EQ(grads[n][3].abs().max().item<float>(), 0.0f);
    EXPECT_GT(grads[n][0].abs().max().item<float>(), 0.0f);
  }
}

TEST(Experts, BiasesTrainWhereNothingElseDoes) {
  const Fixture all({false, false, 0.0, true});
  Fixture alone({false, false, 0.0, true});
  const auto expected = gradients(all, run(all));
  alone.x.set_requires_grad(false);
  alone.logits.set_requires_grad(false);
  const at::Tensor y = run(alone);
  at::manual_seed(8);
  torch::autograd::backward({y}, {at::randn(y.sizes())});
  EXPECT_TRUE(at::equal(alone.experts.gate_up_bias.grad(), expected[2]));
  EXPECT_TRUE(at::equal(alone.experts.down_bias.grad(), expected[3]));
}

TEST(Experts, DropoutChangesWithTheSeedOnly) {
  const Fixture f({true, true, 0.5});
  EXPECT_TRUE(at::equal(run(f, 1), run(f, 1)));
  EXPECT_FALSE(at::equal(run(f, 1), run(f, 2)));
  const Fixture without({true, true, 0.0});
  EXPECT_TRUE(at::equal(run(f, 0), run(without, 1)));  // seed 0: evaluation
}

TEST(Experts, DropoutKeepsTheMean) {
  const at::Tensor x = at::ones({1000, 100});
  const at::Tensor dropped = dropout(x, 0.25, {9, 1});
  // Half a million draws would be within 0.002; a hundred thousand within five deviations of 0.0018.
  EXPECT_NEAR(dropped.mean().item<double>(), 1.0, 0.01);
  EXPECT_NEAR((dropped == 0).to(at::kDouble).mean().item<double>(), 0.25, 0.007);
  std::set<float> values(dropped.const_data_ptr<float>(), dropped.const_data_ptr<float>() + dropped.numel());
  EXPECT_EQ(values, (std::set<float>{0.0f, static_cast<float>(1.0 / 0.75)}));
}

TEST(Route, SoftmaxOverTheTopAlone) {
  const Routing routing = route(at::tensor({1.0f, 3.0f, 2.0f, -5.0f}).view({1, 4}), 2);
  EXPECT_EQ(routing.indices[0][0].item<std::int64_t>(), 1);
  EXPECT_EQ(routing.indices[0][1].item<std::int64_t>(), 2);
  EXPECT_NEAR(routing.weights[0][0].item<double>(), 1.0 / (1.0 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(routing.weights.sum().item<double>(), 1.0, 1e-6);
}

}  // namespace
}  // namespace ossature
