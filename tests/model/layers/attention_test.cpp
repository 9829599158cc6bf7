// Attention against its definition written out in float64, and its gradients against finite differences of that.
#include "model/layers/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

namespace ossature {
namespace {

constexpr std::int64_t kQueryHeads = 4, kKeyHeads = 2, kHeadDim = 8;
constexpr double kScale = 0.35;

struct Case {
  std::vector<std::int64_t> offsets;
  std::int64_t window;
  bool sliding;
};

struct Inputs {
  at::Tensor q, k, v, sinks;

  explicit Inputs(std::int64_t num_tokens, at::ScalarType dtype = at::kFloat) {
    at::manual_seed(num_tokens);
    q = at::randn({num_tokens, kQueryHeads, kHeadDim}).to(dtype);
    k = at::randn({num_tokens, kKeyHeads, kHeadDim}).to(dtype);
    v = at::randn({num_tokens, kKeyHeads, kHeadDim}).to(dtype);
    sinks = at::randn({kQueryHeads});
  }
};

at::Tensor run(const Inputs& in, const Case& c) {
  return attention(in.q, in.k, in.v, in.sinks, SequenceLayout(c.offsets, c.window), c.sliding, kScale);
}

/// The definition, a loop a letter. All tensors float64.
at::Tensor definition(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& sinks,
                      const Case& c) {
  at::Tensor out = at::zeros_like(q);
  const auto Q = q.accessor<double, 3>(), K = k.accessor<double, 3>(), V = v.accessor<double, 3>();
  const auto S = sinks.accessor<double, 1>();
  auto O = out.accessor<double, 3>();
  for (std::size_t s = 0; s + 1 < c.offsets.size(); ++s) {
    for (std::int64_t i = c.offsets[s]; i < c.offsets[s + 1]; ++i) {
      for (std::int64_t h = 0; h < kQueryHeads; ++h) {
        const auto group = h / (kQueryHeads / kKeyHeads);
        double denominator = std::exp(S[h]);
        for (std::int64_t j = c.offsets[s]; j <= i; ++j) {
          if (c.sliding && i - j >= c.window) continue;
          double score = 0.0;
          for (std::int64_t d = 0; d < kHeadDim; ++d) score += Q[i][h][d] * K[j][group][d];
          const double weight = std::exp(score * kScale);
          denominator += weight;
          for (std::int64_t d = 0; d < kHeadDim; ++d) O[i][h][d] += weight * V[j][group][d];
        }
        for (std::int64_t d = 0; d < kHeadDim; ++d) O[i][h][d] /= denominator;
      }
    }
  }
  return out;
}

at::Tensor definition(const Inputs& in, const Case& c) {
  return definition(in.q.to(at::kDouble), in.k.to(at::kDouble), in.v.to(at::kDouble), in.sinks.to(at::kDouble), c);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

class AttentionCases : public ::testing::TestWithParam<Case> {};

TEST_P(AttentionCases, EqualsItsDefinition) {
  const Case& c = GetParam();
  const Inputs in(c.offsets.back());
  EXPECT_LT(largest_difference(run(in, c), definition(in, c)), 1e-5);
}

TEST_P(AttentionCases, BFloat16IsRoundingAway) {
  const Case& c = GetParam();
  const Inputs in(c.offsets.back(), at::kBFloat16);
  // bfloat16 has 8 bits; probabilities and output are each rounded once.
  EXPECT_LT(largest_difference(run(in, c), definition(in, c)), 3.0 / 256);
}

/// Gradients of q, k, v and sinks, float32, for the loss sum(out * weights).
std::vector<at::Tensor> gradients(const Inputs& in, const at::Tensor& weights, const Case& c) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {in.q, in.k, in.v, in.sinks}) leaves.push_back(x.detach().clone().set_requires_grad(true));
  const SequenceLayout layout(c.offsets, c.window);
  const at::Tensor out = attention(leaves[0], leaves[1], leaves[2], leaves[3], layout, c.sliding, kScale);
  torch::autograd::backward({out}, {weights.to(out.scalar_type())});
  std::vector<at::Tensor> grads;
  for (const at::Tensor& leaf : leaves) grads.push_back(leaf.grad().to(at::kFloat).contiguous());
  return grads;
}

TEST_P(AttentionCases, BFloat16GradientsAreRoundingAway) {
  const Case& c = GetParam();
  const Inputs in(c.offsets.back(), at::kBFloat16);
  Inputs wide = in;
  for (at::Tensor* x : {&wide.q, &wide.k, &wide.v}) *x = x->to(at::kFloat);
  const at::Tensor weights = at::randn(in.q.sizes()).to(at::kBFloat16).to(at::kFloat);
  const auto expected = gradients(wide, weights, c), found = gradients(in, weights, c);
  for (std::size_t n = 0; n < found.size(); ++n) {
    EXPECT_LT((found[n] - expected[n]).norm().item<double>(), 0.01 * expected[n].norm().item<double>() + 1e-6)
        << "input " << n;
  }
}

TEST_P(AttentionCases, GradientsEqualFiniteDifferences) {
  const Case& c = GetParam();
  const Inputs in(c.offsets.back());
  const at::Tensor weights = at::randn(in.q.sizes());
  const auto grads = gradients(in, weights, c);
  const auto loss = [&](const std::vector<at::Tensor>& x) {
    return (definition(x[0], x[1], x[2], x[3], c) * weights).sum().item<double>();
  };
  std::vector<at::Tensor> wide;
  for (const at::Tensor& x : {in.q, in.k, in.v, in.sinks}) wide.push_back(x.to(at::kDouble).clone());
  constexpr double kStep = 1e-5;
  for (std::size_t n = 0; n < wide.size(); ++n) {
    // Every sink, and some thirty of the other values.
    const std::int64_t stride = n == 3 ? 1 : std::max<std::int64_t>(1, wide[n].numel() / 31);
    double* values = wide[n].data_ptr<double>();
    for (std::int64_t i = 0; i < wide[n].numel(); i += stride) {
      const double kept = values[i];
      values[i] = kept + kStep;
      const double above = loss(wide);
      values[i] = kept - kStep;
      const double below = loss(wide);
      values[i] = kept;
      EXPECT_NEAR(grads[n].const_data_ptr<float>()[i], (above - below) / (2 * kStep), 2e-4)
          << "input " << n << " value " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, AttentionCases,
                         ::testing::Values(Case{{0, 1}, 4, false},              // a sample of one token
                                           Case{{0, 1}, 4, true},               //
                                           Case{{0, 1, 2, 40}, 16, true},       // and among others
                                           Case{{0, 1, 2, 40}, 16, false},      //
                                           Case{{0, 37}, 4, true},              // longer than window and block
                                           Case{{0, 16}, 16, true},             // exactly a window, exactly a block
                                           Case{{0, 17}, 16, true},             // one more
                                           Case{{0, 33, 33, 50}, 16, true},     // an empty sample
                                           Case{{0, 33, 33, 50}, 16, false},    //
                                           Case{{0, 15, 31, 48, 49}, 16, true}  // boundaries beside block edges
                                           ));

/// The tokens whose output changes when key and value of `token` do.
std::vector<std::int64_t> sees(std::int64_t token, const Case& c) {
  Inputs in(c.offsets.back());
  const at::Tensor before = run(in, c);
  in.k[token] += 1.0;
  in.v[token] += 1.0;
  const at::Tensor changed = (run(in, c) - before).abs().flatten(1).amax(1) > 0;
  std::vector<std::int64_t> seen;
  for (std::int64_t t = 0; t < c.offsets.back(); ++t) {
    if (changed[t].item<bool>()) seen.push_back(t);
  }
  return seen;
}

std::vector<std::int64_t> range(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> all;
  for (auto t = first; t < last; ++t) all.push_back(t);
  return all;
}

TEST(Attention, WindowIsTheTokenItselfAndThoseBefore) {
  // gpt-oss: 128 tokens, the query's own counted.
  EXPECT_EQ(sees(3, {{0, 300}, 128, true}), range(3, 131));
  EXPECT_EQ(sees(100, {{0, 300}, 128, true}), range(100, 228));
  EXPECT_EQ(sees(3, {{0, 300}, 128, false}), range(3, 300));
}

TEST(Attention, SamplesDoNotSeeEachOther) {
  for (const bool sliding : {true, false}) {
    EXPECT_EQ(sees(49, {{0, 50, 90}, 16, sliding}), range(49, 50));
    EXPECT_EQ(sees(50, {{0, 50, 90}, 16, sliding}), range(50, sliding ? 66 : 90));
  }
}

TEST(Attention, ASingleTokenSharesWithItsSinkOnly) {
  const Inputs in(1);
  const at::Tensor out = run(in, {{0, 1}, 16, true});
  for (std::int64_t h = 0; h < kQueryHeads; ++h) {
    const double score = (in.q[0][h] * in.k[0][h / 2]).sum().item<double>() * kScale;
    const double share = 1.0 / (1.0 + std::exp(in.sinks[h].item<double>() - score));
    EXPECT_LT(largest_difference(out[0][h], in.v[0][h / 2] * share), 1e-6);
  }
}

TEST(Attention, ExtremeSinksStayFinite) {
  for (const double sink : {-200.0, 200.0}) {
    Inputs in(40);
    in.sinks.fill_(sink);
    const at::Tensor out = run(in, {{0, 40}, 16, true});
    EXPECT_TRUE(out.isfinite().all().item<bool>());
    EXPECT_LT(largest_difference(out, definition(in, {{0, 40}, 16, true})), 1e-5);
  }
}

TEST(SequenceLayout, AWindowPastEverySampleCostsNothing) {
  const Case wide{{0, 5, 40}, std::int64_t{1} << 40, true}, none{{0, 5, 40}, 4, false};
  const Inputs in(40);
  EXPECT_TRUE(at::equal(run(in, wide), run(in, none)));
  const Inputs narrow(40, at::kBFloat16);
  EXPECT_LT(largest_difference(run(narrow, wide), run(narrow, none)), 1.0 / 128);
}

TEST(SequenceLayout, RejectsOffsetsThatAreNone) {
  const std::vector<std::int64_t> empty, late{1, 2}, falling{0, 3, 2};
  EXPECT_THROW(SequenceLayout(empty, 8), std::invalid_argument);
  EXPECT_THROW(SequenceLayout(late, 8), std::invalid_argument);
  EXPECT_THROW(SequenceLayout(falling, 8), std::invalid_argument);
}

}  // namespace
}  // namespace ossature
