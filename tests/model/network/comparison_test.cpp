// Three models side by side: every figure against what each model says alone.
#include "model/network/comparison.h"

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "model/adapter/loaded_model.h"
#include "model/network/head.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

using testing::Golden;

class Comparison : public ::testing::Test {
 protected:
  [[nodiscard]] LoadedModel load(const std::optional<std::string>& with) const {
    return load_model(golden.dir() / "hf", with ? std::optional(golden.dir() / *with) : std::nullopt, at::kFloat);
  }

  Golden golden{std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small"};
  LoadedModel base = load(std::nullopt), adapter = load("adapter-trained"), other = load("adapter-gate-up");
};

/// log p over the vocabulary at every learned position, float64 [N, V].
at::Tensor distributions(const LoadedModel& model, const TokenRows& rows, const Targets& targets) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = forward(model.transformer, rows).index_select(0, targets.rows);
  return at::log_softmax(head_logits(model.transformer, hidden).to(at::kDouble), -1);
}

TEST_F(Comparison, SumsAreThoseOfTheModelsAlone) {
  ModelComparison comparison(base.transformer, adapter.transformer, other.transformer, false);
  const TokenRows rows = golden.rows();
  comparison.add(std::span(&rows, 1));
  const ComparisonSums found = comparison.total();
  const LossSum alone = evaluate(base.transformer, rows);
  EXPECT_EQ(found.num_learned, alone.num_learned);
  EXPECT_DOUBLE_EQ(found.weight, alone.weight);
  EXPECT_NEAR(found.loss_base, alone.loss, 1e-4);
  EXPECT_NEAR(found.loss_adapter, evaluate(adapter.transformer, rows).loss, 1e-4);
  EXPECT_NEAR(found.loss_export, evaluate(other.transformer, rows).loss, 1e-4);

  const Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
  const at::Tensor p = distributions(base, rows, targets), q = distributions(adapter, rows, targets),
                   r = distributions(other, rows, targets);
  const auto kl = [&](const at::Tensor& to) { return (q.exp() * (q - to)).sum().item<double>(); };
  EXPECT_NEAR(found.kl_adapter_base, kl(p), 1e-4 * kl(p) + 1e-6);
  EXPECT_NEAR(found.kl_adapter_export, kl(r), 1e-4 * kl(r) + 1e-6);
  EXPECT_GT(found.kl_adapter_export, 1e-3);
  EXPECT_EQ(found.top1_agreement, (q.argmax(-1) == r.argmax(-1)).sum().item<double>());
  EXPECT_TRUE(comparison.layers().empty());
}

TEST_F(Comparison, SamplesStayApartHoweverBatchesAreGrouped) {
  ModelComparison together(base.transformer, adapter.transformer, other.transformer, false),
      apart(base.transformer, adapter.transformer, other.transformer, false);
  const TokenRows all = golden.rows();
  together.add(std::span(&all, 1));
  std::vector<TokenRows> rows;
  for (std::int64_t n = 0; n < golden.num_rows(); ++n) rows.push_back(golden.row(n));
  apart.add(rows);
  ASSERT_EQ(std::ssize(together.samples()), golden.num_rows());
  ASSERT_EQ(apart.samples().size(), together.samples().size());
  for (std::size_t s = 0; s < apart.samples().size(); ++s) {
    const ComparisonSums &a = together.samples()[s], &b = apart.samples()[s];
    EXPECT_EQ(a.num_learned, b.num_learned);
    EXPECT_NEAR(a.loss_export, b.loss_export, 1e-4);
    EXPECT_NEAR(a.loss_base, evaluate(base.transformer, golden.row(static_cast<std::int64_t>(s))).loss, 1e-4);
    EXPECT_NEAR(a.kl_adapter_export, b.kl_adapter_export, 1e-5);
  }
}

TEST_F(Comparison, WeightsScaleEverySum) {
  const TokenRows ones = golden.rows();
  std::vector<float> halves(ones.loss_weights.begin(), ones.loss_weights.end());
  for (float& weight : halves) weight *= 0.5f;
  const TokenRows rows{ones.tokens, halves, ones.sample_offsets};
  ModelComparison whole(base.transformer, adapter.transformer, other.transformer, false),
      half(base.transformer, adapter.transformer, other.transformer, false);
  whole.add(std::span(&ones, 1));
  half.add(std::span(&rows, 1));
  EXPECT_EQ(half.total().num_learned, whole.total().num_learned);
  EXPECT_DOUBLE_EQ(half.total().weight, whole.total().weight / 2);
  EXPECT_DOUBLE_EQ(half.total().loss_export, whole.total().loss_export / 2);
  EXPECT_DOUBLE_EQ(half.total().kl_adapter_base, whole.total().kl_adapter_base / 2);
  EXPECT_DOUBLE_EQ(half.total().top1_agreement, whole.total().top1_agreement / 2);
}

TEST_F(Comparison, LayersTellAnExportThatKeepsAllFromOneThatKeepsNothing) {
  const TokenRows rows = golden.rows();
  ModelComparison all(base.transformer, adapter.transformer, adapter.transformer, true),
      nothing(base.transformer, adapter.transformer, base.transformer, true);
  all.add(std::span(&rows, 1));
  nothing.add(std::span(&rows, 1));
  ASSERT_EQ(all.layers().size(), base.transformer.layers().size());
  for (std::size_t n = 0; n < all.layers().size(); ++n) {
    EXPECT_GT(all.layers()[n].wanted, 0.0);
    EXPECT_EQ(all.layers()[n].missed, 0.0);
    EXPECT_NEAR(all.layers()[n].along, all.layers()[n].wanted, 1e-6 * all.layers()[n].wanted);
    EXPECT_EQ(nothing.layers()[n].missed, nothing.layers()[n].wanted);
    EXPECT_EQ(nothing.layers()[n].along, 0.0);
  }
}

}  // namespace
}  // namespace ossature
