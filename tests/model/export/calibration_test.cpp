// What a calibration pass gathers, against the model's own layers and sums in float64.
#include "model/export/calibration.h"

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "model/adapter/loaded_model.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

using testing::Golden;
using testing::golden_dirs;
using testing::relative_error;

class Calibration : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Golden, Calibration, ::testing::ValuesIn(golden_dirs()), testing::golden_test_name);

/// Weighted sums of one expert, a token at a time.
struct Sums {
  at::Tensor first, second;
  double weight = 0.0;
  explicit Sums(std::int64_t features)
      : first(at::zeros({features}, at::kDouble)), second(at::zeros({features, features}, at::kDouble)) {}
  void add(const at::Tensor& x, double p) {
    first += x * (p * p);
    second += at::outer(x, x) * (p * p);
    weight += p * p;
  }
  [[nodiscard]] at::Tensor covariance() const {
    const at::Tensor mean = first / weight;
    return second / weight - at::outer(mean, mean);
  }
};

/// An expert's activation in float64, from the plain formulas.
at::Tensor activation(const Layer& layer, std::int64_t e, const at::Tensor& x, double limit) {
  const Experts& experts = layer.experts;
  const LowRank& pair = experts.gate_up_low_rank;
  const at::Tensor weight = mxfp4_decode_expert(experts.gate_up.packed, e, at::kFloat).to(at::kDouble);
  at::Tensor u = at::mv(weight, x) + experts.gate_up_bias[e].to(at::kDouble);
  u += at::mv(pair.b[e].detach().to(at::kDouble), at::mv(pair.a[e].detach().to(at::kDouble), x)) * pair.scale;
  const at::Tensor pairs = u.view({-1, 2});
  const at::Tensor gate = pairs.select(1, 0).clamp_max(limit), up = pairs.select(1, 1).clamp(-limit, limit);
  return gate * at::sigmoid(gate * 1.702) * (up + 1.0);
}

TEST_P(Calibration, GathersWhatTheExpertsGet) {
  const Golden golden(GetParam());
  const LoadedModel model = load_model(golden.dir() / "hf", golden.dir() / "adapter-trained", at::kFloat);
  const ModelConfig& config = model.checkpoint.config();
  const TokenRows rows = golden.rows();
  CalibrationPass pass(model.transformer, std::span(&rows, 1));
  EXPECT_EQ(pass.num_tokens(), static_cast<std::int64_t>(rows.tokens.size()));
  const SequenceLayout layout(rows.sample_offsets, config.sliding_window);
  const RopeTable rope = rope_table(config, layout.positions());
  for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
    at::NoGradGuard no_grad;
    const Layer& layer = model.transformer.layers()[static_cast<std::size_t>(n)];
    // The layer's experts, from what it is given.
    const Pass plain{layout, rope};
    const auto [q, k, v] = model.transformer.project(n, pass.hidden(0), plain);
    const at::Tensor attended =
        attention(q, k, v, layer.sinks.to(at::kFloat), layout, layer.sliding, model.transformer.attention_scale());
    const auto input = model.transformer.expert_input(n, pass.hidden(0),
                                                      attended.reshape({attended.size(0), config.query_size()}), plain);
    std::vector<Sums> x_sums(static_cast<std::size_t>(config.num_local_experts), Sums(0)), z_sums = x_sums;
    std::vector<double> tokens(x_sums.size());
    for (auto& each : x_sums) each = Sums(config.hidden_size);
    for (auto& each : z_sums) each = Sums(config.intermediate_size);
    for (std::int64_t t = 0; t < attended.size(0); ++t) {
      for (std::int64_t i = 0; i < config.num_experts_per_tok; ++i) {
        const auto e = input.routing.indices[t][i].item<std::int64_t>();
        const auto p = static_cast<double>(input.routing.weights[t][i].item<float>());
        const at::Tensor x = input.normed[t].to(at::kDouble);
        x_sums[static_cast<std::size_t>(e)].add(x, p);
        z_sums[static_cast<std::size_t>(e)].add(activation(layer, e, x, config.swiglu_limit), p);
        tokens[static_cast<std::size_t>(e)] += 1.0;
      }
    }

    MomentSums gate_up(config.num_local_experts, config.hidden_size),
        down(config.num_local_experts, config.intermediate_size);
    pass.run_layer(&gate_up, &down);
    for (const auto& [sums, found] : {std::pair(&x_sums, &gate_up), std::pair(&z_sums, &down)}) {
      at::Tensor pooled = at::zeros_like(sums->front().second);
      double all = 0.0;
      for (const Sums& each : *sums) {
        if (each.weight == 0.0) continue;
        pooled += each.covariance() * each.weight;
        all += each.weight;
      }
      for (std::size_t e = 0; e < sums->size(); ++e) {
        const Sums& each = (*sums)[e];
        const InputMoments moments = found->moments(static_cast<std::int64_t>(e));
        const double weight = kPooledTokens * static_cast<double>(each.first.size(0));
        at::Tensor expected = pooled / all * (weight / (tokens[e] + weight));
        if (each.weight > 0.0) {
          expected += each.covariance() * (tokens[e] / (tokens[e] + weight));
          EXPECT_LT(relative_error(moments.mean, each.first / each.weight), 1e-4) << n << " " << e;
        }
        EXPECT_LT(relative_error(moments.covariance, expected), 1e-4) << n << " " << e;
      }
    }
  }
}

TEST_P(Calibration, ActivationsAreTheModels) {
  const Golden golden(GetParam());
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    LoadedModel model = load_model(golden.dir() / "hf", golden.dir() / "adapter-trained", dtype);
    model.transformer.read_as_used(dtype == at::kFloat ? 0 : 3);
    const std::vector<TokenRows> rows = {golden.row(0), golden.row(1)};
    CalibrationPass pass(model.transformer, rows);
    std::int64_t tokens = 0;
    for (std::int64_t n = 0; n < model.checkpoint.config().num_hidden_layers; ++n) {
      pass.run_layer(nullptr, nullptr, [&](std::int64_t number) { tokens += number; });
    }
    EXPECT_EQ(tokens, pass.num_tokens() * pass.layer());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      EXPECT_TRUE(at::equal(pass.hidden(i), forward(model.transformer, rows[i]))) << i;
    }
  }
}

}  // namespace
}  // namespace ossature
