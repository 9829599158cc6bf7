// Recovery of an export: what it trains, when its result is kept, and what is refused.
#include "train/evaluation/recovery.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "data/data_error.h"
#include "model/adapter/loaded_model.h"
#include "model/export/exported_model.h"
#include "model/export/init.h"
#include "model/network/distillation.h"
#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"
#include "train/evaluation/evaluate.h"

namespace ossature {
namespace {

using testing::same_bytes;
using testing::small;

/// Samples of 20 tokens; the first half of each is not learned.
std::vector<Batch> samples(int count, int first = 0) {
  std::vector<Batch> batches;
  for (int s = first; s < first + count; ++s) {
    if (s % 4 == 0 || batches.empty()) batches.push_back({{}, {}, {0}, {}, {}});
    Batch& batch = batches.back();
    for (int t = 0; t < 20; ++t) {
      batch.tokens.push_back((s * 31 + t * t * 7 + s * t * 3 + 5) % 128);
      batch.loss_weights.push_back(t < 10 ? 0.0f : 1.0f);
    }
    batch.sample_offsets.push_back(std::ssize(batch.tokens));
  }
  return batches;
}

/// A small random model, every token of which goes through every expert (a token that goes to others is a jump of the
/// divergence), and one of whose experts' biases is far from what it should be.
struct Damaged {
  Scratch scratch;
  LoadedModel model = load_model(initialized(), std::nullopt, at::kFloat);
  Merger merger;
  Replacements replacements;
  RecoveryOptions options{40, 1e-2, at::kFloat};

  Damaged() {
    at::manual_seed(5);
    for (std::int64_t n = 0; n < model.checkpoint.config().num_hidden_layers; ++n)
      for (const std::string& weight : expert_weight_names(n))
        replacements.experts[weight] = model.checkpoint.expert_weight(weight).packed;
    const std::string name = "model.layers.1.mlp.experts.down_proj_bias";
    const at::Tensor bias = model.checkpoint.tensor(name);
    replacements.tensors[name] = (0.2 * at::randn(bias.sizes())).to(bias.scalar_type());
  }
  [[nodiscard]] std::filesystem::path initialized() const {
    ModelConfig config = read_config(small("hf") / "config.json");
    config.num_experts_per_tok = config.num_local_experts;
    init_checkpoint(config, 0, ExpertStorage::kMxfp4, std::nullopt, scratch.path() / "model");
    return scratch.path() / "model";
  }
  [[nodiscard]] Recovery recovered(int count = 200) const {
    return recover(model.checkpoint, merger, replacements, samples(count), options);
  }
  /// KL(base + adapter || export) on samples that nothing else has seen.
  [[nodiscard]] double divergence(const Replacements& with) const {
    const Transformer exported = exported_transformer(model.checkpoint, merger, with, at::kFloat);
    double sum = 0.0;
    for (const Batch& batch : samples(20, 1000)) {
      const TokenRows rows = rows_of(batch);
      const Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
      sum += distillation_divergence(exported, forward(exported, rows),
                                     {model.transformer, forward(model.transformer, rows)}, targets);
    }
    return sum;
  }
};

TEST(Recovery, BringsTheExportNearerToBaseAndAdapter) {
  const Damaged run;
  const Recovery found = run.recovered();
  EXPECT_LT(found.kl_after, 0.5 * found.kl_before);
  EXPECT_GT(found.steps, 0);
  EXPECT_LE(found.steps, run.options.steps);
  ASSERT_FALSE(found.tensors.empty());
  Replacements with = run.replacements;
  for (const auto& [name, tensor] : found.tensors) {
    const at::Tensor stored = run.model.checkpoint.tensor(name);
    EXPECT_EQ(tensor.sizes(), stored.sizes()) << name;
    EXPECT_EQ(tensor.scalar_type(), stored.scalar_type()) << name;
    EXPECT_TRUE(name.ends_with("_proj_bias")) << name;
    with.tensors[name] = tensor;
  }
  EXPECT_TRUE(found.tensors.contains("model.layers.1.mlp.experts.down_proj_bias"));
  EXPECT_LT(run.divergence(with), 0.6 * run.divergence(run.replacements));
}

TEST(Recovery, KeepsNothingThatIsNoBetterOnHeldOutSamples) {
  Damaged run;
  run.options.learning_rate = 3.0;  // nothing comes of steps like these
  run.options.steps = 3;
  const Recovery found = run.recovered();
  EXPECT_TRUE(found.tensors.empty());
  EXPECT_EQ(found.steps, 0);
  EXPECT_EQ(found.kl_after, found.kl_before);
}

/// A step that is smaller than half of bfloat16's is no change of what is stored, but the steps add up.
TEST(Recovery, SmallStepsAddUp) {
  Damaged run;
  run.options.learning_rate = 2e-4;
  const Recovery found = run.recovered();
  EXPECT_LT(found.kl_after, found.kl_before);
  EXPECT_FALSE(found.tensors.empty());
}

TEST(Recovery, DependsOnNothingButItsInputs) {
  Damaged run;
  run.options.steps = 6;
  const Recovery first = run.recovered();
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const Recovery second = run.recovered();
  at::set_num_threads(threads);
  EXPECT_EQ(first.kl_after, second.kl_after);
  ASSERT_EQ(first.tensors.size(), second.tensors.size());
  for (const auto& [name, tensor] : first.tensors) EXPECT_TRUE(same_bytes(tensor, second.tensors.at(name))) << name;
}

TEST(Recovery, TellsHowFarItIsAndCanBeStopped) {
  const Damaged run;
  std::int64_t last = 0, all = 0;
  const auto listen = [&](std::int64_t done, std::int64_t total) {
    EXPECT_GT(done, last);
    EXPECT_LE(done, total);
    last = done;
    all = total;
  };
  (void)recover(run.model.checkpoint, run.merger, run.replacements, samples(9), run.options, listen);
  EXPECT_EQ(last, all);
  EXPECT_THROW((void)recover(run.model.checkpoint, run.merger, run.replacements, samples(9), run.options,
                             [](std::int64_t, std::int64_t) { throw std::runtime_error("stop"); }),
               std::runtime_error);
}

TEST(RecoveryRefuses, TooFewSamplesWithLearnedTokens) {
  const Damaged run;
  EXPECT_THROW((void)run.recovered(1), DataError);
  std::vector<Batch> none = samples(8);
  for (Batch& batch : none) std::fill(batch.loss_weights.begin(), batch.loss_weights.end(), 0.0f);
  EXPECT_THROW((void)recover(run.model.checkpoint, run.merger, run.replacements, none, run.options), DataError);
  EXPECT_NO_THROW((void)run.recovered(2));
}

}  // namespace
}  // namespace ossature
