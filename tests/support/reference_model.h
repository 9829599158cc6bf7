// gpt-oss written down once more, in float64 and in the plainest tensor operations: tokens and experts one at a time,
// attention by its definition. The judge of the network and, by autograd, of its gradients.
#pragma once

#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/config.h"
#include "model/network/backpropagation.h"
#include "model/network/parameters.h"
#include "tests/support/golden.h"

namespace ossature::testing {

/// Every weight by transformers' name, expert weights as [E, O, I]; float64 leaves.
using ReferenceWeights = std::map<std::string, at::Tensor>;

class ReferenceModel {
 public:
  ReferenceModel(const ModelConfig& config, const ReferenceWeights& weights) : config_(config), weights_(weights) {}

  /// Log-probabilities of every next token, [T, V].
  [[nodiscard]] at::Tensor log_probs(const TokenRows& rows) const {
    std::vector<at::Tensor> samples;
    for (std::size_t s = 0; s + 1 < rows.sample_offsets.size(); ++s) {
      const auto first = static_cast<std::size_t>(rows.sample_offsets[s]);
      const auto last = static_cast<std::size_t>(rows.sample_offsets[s + 1]);
      if (first < last) samples.push_back(sample(rows.tokens.subspan(first, last - first)));
    }
    return at::cat(samples);
  }

  /// Sum of weight * -log p over the tokens that have one before them.
  [[nodiscard]] at::Tensor loss(const TokenRows& rows) const {
    const at::Tensor all = log_probs(rows);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (std::size_t s = 0; s + 1 < rows.sample_offsets.size(); ++s) {
      for (auto t = rows.sample_offsets[s] + 1; t < rows.sample_offsets[s + 1]; ++t) {
        const auto i = static_cast<std::size_t>(t);
        sum = sum - all[t - 1][rows.tokens[i]] * static_cast<double>(rows.loss_weights[i]);
      }
    }
    return sum;
  }

 private:
  [[nodiscard]] const at::Tensor& weight(const std::string& name) const { return weights_.at(name); }
  [[nodiscard]] at::Tensor linear(const std::string& name, const at::Tensor& x) const {
    return x.matmul(weight(name + ".weight").t()) + weight(name + ".bias");
  }
  [[nodiscard]] at::Tensor norm(const std::string& name, const at::Tensor& x) const {
    return x / (x.square().mean(-1, true) + config_.rms_norm_eps).sqrt() * weight(name);
  }

  /// YaRN (arXiv 2309.00071) on x [T, heads, D], positions 0, 1, ...
  [[nodiscard]] at::Tensor rotate(const at::Tensor& x) const {
    const RopeScaling& rope = config_.rope_scaling;
    const auto half = config_.head_dim / 2;
    const auto bound = [&](double beta) {
      const double context = static_cast<double>(rope.original_max_position_embeddings);
      return static_cast<double>(half) * std::log(context / (beta * 2.0 * std::numbers::pi)) /
             std::log(config_.rope_theta);
    };
    const double low = bound(rope.beta_fast), high = bound(rope.beta_slow);
    std::vector<double> frequencies;
    for (std::int64_t i = 0; i < half; ++i) {
      const double plain = std::pow(config_.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
      const double ramp = std::min(1.0, std::max(0.0, (static_cast<double>(i) - low) / (high - low)));
      frequencies.push_back(ramp * plain / rope.factor + (1.0 - ramp) * plain);
    }
    const at::Tensor angles = at::outer(at::arange(x.size(0), at::kDouble), at::tensor(frequencies, at::kDouble));
    const double concentration = 0.1 * std::log(rope.factor) + 1.0;
    const at::Tensor c = (angles.cos() * concentration).unsqueeze(1), s = (angles.sin() * concentration).unsqueeze(1);
    const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
    return at::cat({a * c - b * s, b * c + a * s}, 2);
  }

  [[nodiscard]] at::Tensor attention(const std::string& layer, const at::Tensor& x, bool sliding) const {
    const auto length = x.size(0), heads = config_.num_attention_heads, shared = config_.num_key_value_heads;
    const at::Tensor q = rotate(linear(layer + "self_attn.q_proj", x).view({length, heads, -1}));
    const at::Tensor k = rotate(linear(layer + "self_attn.k_proj", x).view({length, shared, -1}));
    const at::Tensor v = linear(layer + "self_attn.v_proj", x).view({length, shared, -1});
    const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
    std::vector<at::Tensor> rows;
    for (std::int64_t t = 0; t < length; ++t) {
      const std::int64_t first = sliding ? std::max<std::int64_t>(0, t - config_.sliding_window + 1) : 0;
      std::vector<at::Tensor> outs;
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto group = h / (heads / shared);
        const at::Tensor keys = k.narrow(0, first, t - first + 1).select(1, group);
        const at::Tensor values = v.narrow(0, first, t - first + 1).select(1, group);
        const at::Tensor scores = keys.mv(q[t][h]) * scale;
        const at::Tensor logits = at::cat({scores, weight(layer + "self_attn.sinks")[h].view({1})});
        outs.push_back(values.t().mv(at::softmax(logits, 0).narrow(0, 0, keys.size(0))));
      }
      rows.push_back(at::cat(outs));
    }
    return linear(layer + "self_attn.o_proj", at::stack(rows));
  }

  [[nodiscard]] at::Tensor experts(const std::string& layer, const at::Tensor& x) const {
    const std::string prefix = layer + "mlp.experts.";
    const at::Tensor logits = linear(layer + "mlp.router", x);
    std::vector<at::Tensor> rows;
    for (std::int64_t t = 0; t < x.size(0); ++t) {
      const auto [values, indices] = at::topk(logits[t], config_.num_experts_per_tok);
      const at::Tensor shares = at::softmax(values, 0);
      at::Tensor sum = at::zeros({x.size(1)}, at::kDouble);
      for (std::int64_t i = 0; i < config_.num_experts_per_tok; ++i) {
        const auto e = indices[i].item<std::int64_t>();
        const at::Tensor u = (weight(prefix + "gate_up_proj")[e].mv(x[t]) + weight(prefix + "gate_up_proj_bias")[e])
                                 .view({config_.intermediate_size, 2});
        const at::Tensor gate = u.select(1, 0).clamp_max(config_.swiglu_limit);
        const at::Tensor up = u.select(1, 1).clamp(-config_.swiglu_limit, config_.swiglu_limit);
        const at::Tensor h = gate * at::sigmoid(1.702 * gate) * (up + 1.0);
        sum = sum + shares[i] * (weight(prefix + "down_proj")[e].mv(h) + weight(prefix + "down_proj_bias")[e]);
      }
      rows.push_back(sum);
    }
    return at::stack(rows);
  }

  [[nodiscard]] at::Tensor sample(std::span<const std::int32_t> tokens) const {
    std::vector<std::int64_t> ids(tokens.begin(), tokens.end());
    at::Tensor x = weight("model.embed_tokens.weight").index_select(0, at::tensor(ids, at::kLong));
    for (std::int64_t n = 0; n < config_.num_hidden_layers; ++n) {
      const std::string layer = "model.layers." + std::to_string(n) + ".";
      const bool sliding = config_.sliding_layers[static_cast<std::size_t>(n)];
      x = x + attention(layer, norm(layer + "input_layernorm.weight", x), sliding);
      x = x + experts(layer, norm(layer + "post_attention_layernorm.weight", x));
    }
    return at::log_softmax(norm("model.norm.weight", x).matmul(weight("lm_head.weight").t()), -1);
  }

  const ModelConfig& config_;
  const ReferenceWeights& weights_;
};

/// The gradient of every parameter is the reference's of that name.
inline void expect_gradients(const ParameterSet& parameters, const ReferenceWeights& expected) {
  for (std::size_t i = 0; i < parameters.specs().size(); ++i) {
    const std::string& name = parameters.specs()[i].name;
    const at::Tensor& wanted = expected.at(name).grad();
    ASSERT_GT(wanted.norm().item<double>(), 0.0) << name;
    EXPECT_LT(relative_error(parameters.tensor(i).grad(), wanted), 1e-4) << name;
  }
}

}  // namespace ossature::testing
