// KL(teacher || student) and its gradient at the head, against float64 autograd and finite differences.
#include "model/network/distillation.h"

#include <gtest/gtest.h>

#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/support/golden.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using testing::relative_error;
using testing::small;

constexpr std::int64_t kTokens = 90;

/// Two networks with hidden states of their own; most positions count, by different weights.
struct Pair {
  Transformer student{Checkpoint(small("hf")), at::kFloat}, other{Checkpoint(small("hf")), at::kFloat};
  at::Tensor hidden, teacher_hidden;
  Targets targets;

  explicit Pair(std::int64_t every = 1) {
    at::manual_seed(4);
    const auto size = student.config().hidden_size;
    student.norm = (student.norm.to(at::kFloat) + 0.2 * at::randn({size})).set_requires_grad(true);
    student.lm_head = student.lm_head.to(at::kFloat).clone();
    student.lm_head.set_requires_grad(true).mutable_grad() = at::zeros_like(student.lm_head);
    hidden = at::randn({kTokens, size});
    teacher_hidden = hidden + 0.3 * at::randn({kTokens, size});
    std::vector<std::int32_t> tokens(kTokens, 3);
    std::vector<float> weights;
    for (std::int64_t t = 0; t < kTokens; ++t)
      weights.push_back(t % every == 0 ? 0.25f * static_cast<float>(1 + t % 5) : 0.0f);
    targets = targets_of(tokens, weights, std::vector<std::int64_t>{0, 50, kTokens});
  }
  [[nodiscard]] Teacher teacher() const { return {other, teacher_hidden}; }
};

at::Tensor normed(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x / (x.square().mean(-1, true) + epsilon).sqrt() * weight;
}

/// The definition in float64. norm and head are the student's.
at::Tensor definition(const Pair& pair, const at::Tensor& hidden, const at::Tensor& norm, const at::Tensor& head) {
  const double epsilon = pair.student.config().rms_norm_eps;
  const auto log_probs = [&](const at::Tensor& x, const at::Tensor& norm_weight, const at::Tensor& head_weight) {
    const at::Tensor rows = x.index_select(0, pair.targets.rows);
    return at::log_softmax(normed(rows, norm_weight, epsilon).matmul(head_weight.t()), -1);
  };
  const at::Tensor log_p = log_probs(pair.teacher_hidden.to(at::kDouble), pair.other.norm.to(at::kDouble),
                                     pair.other.lm_head.to(at::kDouble));
  const at::Tensor log_q = log_probs(hidden, norm, head);
  return ((log_p.exp() * (log_p - log_q)).sum(-1) * pair.targets.weights.to(at::kDouble)).sum();
}

class Distillation : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(Distillation, ValueAndGradientsAreTheDefinitions) {
  const Pair pair(GetParam());
  const auto leaf = [](const at::Tensor& t) { return t.detach().to(at::kDouble).set_requires_grad(true); };
  const at::Tensor hidden = leaf(pair.hidden), norm = leaf(pair.student.norm), head = leaf(pair.student.lm_head);
  const at::Tensor expected = definition(pair, hidden, norm, head);
  torch::autograd::backward({expected}, {});
  const HeadLoss found = distillation_loss(pair.student, pair.hidden, pair.teacher(), pair.targets);
  EXPECT_NEAR(found.loss_sum, expected.item<double>(), 1e-6 * expected.item<double>());
  EXPECT_GT(found.loss_sum, 0.01);
  EXPECT_LT(relative_error(found.grad_hidden, hidden.grad()), 2e-6);
  EXPECT_LT(relative_error(pair.student.norm.grad(), norm.grad()), 2e-6);
  EXPECT_LT(relative_error(pair.student.lm_head.grad(), head.grad()), 2e-6);
  const double alone = distillation_divergence(pair.student, pair.hidden, pair.teacher(), pair.targets);
  EXPECT_NEAR(alone, found.loss_sum, 1e-6 * alone);
}

INSTANTIATE_TEST_SUITE_P(Rows, Distillation, ::testing::Values(1, 7));

TEST(Distillation, GradientIsTheSlopeOfTheValue) {
  const Pair pair;
  const at::Tensor gradient = distillation_loss(pair.student, pair.hidden, pair.teacher(), pair.targets).grad_hidden;
  at::manual_seed(9);
  for (int n = 0; n < 3; ++n) {
    const at::Tensor direction = at::randn(pair.hidden.sizes());
    const double step = 1e-2;
    const auto at = [&](double by) {
      return distillation_divergence(pair.student, pair.hidden + by * direction, pair.teacher(), pair.targets);
    };
    const double slope = (at(step) - at(-step)) / (2 * step), wanted = (gradient * direction).sum().item<double>();
    EXPECT_NEAR(slope, wanted, 2e-3 * gradient.norm().item<double>());
  }
}

TEST(Distillation, IsZeroOnesOwnTeacher) {
  const Pair pair;
  const Teacher self{pair.student, pair.hidden};
  const HeadLoss found = distillation_loss(pair.student, pair.hidden, self, pair.targets);
  EXPECT_NEAR(found.loss_sum, 0.0, 1e-5);
  EXPECT_LT(found.grad_hidden.norm().item<double>(), 1e-5);
}

}  // namespace
}  // namespace ossature
