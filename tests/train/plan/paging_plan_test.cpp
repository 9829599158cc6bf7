// How many micro-batches go together, by what the machine computes and its disk reads; and how many layers stay cached.
#include "train/plan/paging_plan.h"

#include <gtest/gtest.h>

#include "model/export/init.h"
#include "model/network/backpropagation.h"
#include "tests/malformed/scratch.h"
#include "train/plan/estimate.h"

namespace ossature {
namespace {

/// 4 layers of 1,000,000 bytes, inputs of 10,000 and 100,000 kept for each micro-batch.
MemoryNeeds needs() {
  MemoryNeeds needs;
  needs.weights = 4'000'000;
  needs.layer_weights = 1'000'000;
  needs.input = 10'000;
  needs.kept = 100'000;
  needs.num_layers = 4;
  return needs;
}

Recipe recipe(Recompute recompute) {
  Recipe recipe;
  recipe.train.recompute = recompute;
  recipe.train.gradient_accumulation_steps = 8;
  return recipe;
}

/// Room for two layers of weights, and for all that two micro-batches keep.
constexpr std::int64_t kLimit = 2'000'000 + 2 * 4 * 110'000;

TEST(PagingPlan, FewTogetherWhereComputingTakesLongerAndAllWhereTheDiskDoes) {
  const ModelConfig model = *preset("tiny");
  const MemoryPlan plan = plan_memory(recipe(Recompute::kAuto), needs(), kLimit);
  ASSERT_TRUE(plan.pages);
  ASSERT_EQ(plan.micro_batches_together, 8);
  ASSERT_LT(plan.kept_layers, 4);
  const MemoryPlan computing = fastest_plan(recipe(Recompute::kAuto), model, plan, {1.0, 1e15});
  EXPECT_EQ(computing.micro_batches_together, 2);
  EXPECT_EQ(computing.kept_layers, 4);
  EXPECT_LE(computing.resident(), kLimit);
  const MemoryPlan reading = fastest_plan(recipe(Recompute::kAuto), model, plan, {1e9, 1e3});
  EXPECT_EQ(reading.micro_batches_together, 8);
  EXPECT_EQ(reading.kept_layers, plan.kept_layers);
  // Nothing is won where no layer may be kept, or none need run again.
  for (const auto recompute : {Recompute::kOn, Recompute::kOff}) {
    const MemoryPlan fixed = plan_memory(recipe(recompute), needs(), kLimit);
    EXPECT_EQ(fastest_plan(recipe(recompute), model, fixed, {1.0, 1e15}).micro_batches_together,
              fixed.micro_batches_together);
  }
}

TEST(PagingPlan, AStepTakesItsArithmeticOrItsReading) {
  const ModelConfig model = *preset("tiny");
  const Recipe with = recipe(Recompute::kAuto);
  MemoryPlan plan = plan_memory(with, needs(), kLimit, 0, 3);
  ASSERT_EQ(plan.micro_batches_together, 3);
  // Three groups of 8 micro-batches read four layers twice.
  EXPECT_DOUBLE_EQ(step_seconds(with, model, plan, {1e12, 1e6}), 3 * 2 * 4.0);
  const double tokens = 8.0 * static_cast<double>(with.data.sequence_length * with.train.micro_batch_size);
  const double computing = tokens * gflop_per_token(with, model, plan) / kShareOfRoofline;
  EXPECT_NEAR(step_seconds(with, model, plan, {1.0, 1e15}), computing, 1e-9 * computing);
  plan.pages = false;
  EXPECT_NEAR(step_seconds(with, model, plan, {1.0, 1.0}), computing, 1e-9 * computing);
}

TEST(PagingPlan, RatesAreMeasuredOnTheCheckpoint) {
  const Scratch scratch;
  ModelConfig one_layer = *preset("tiny");
  one_layer.num_hidden_layers = 1;
  one_layer.sliding_layers = {true};
  for (const auto& [name, config] : {std::pair{"one", one_layer}, std::pair{"tiny", *preset("tiny")}}) {
    init_checkpoint(config, 1, ExpertStorage::kMxfp4, std::nullopt, scratch.path() / name);
    EXPECT_GT(probe_gflop_per_second(recipe(Recompute::kAuto).dtype), 0.1);
    EXPECT_GT(probe_bytes_per_second(Checkpoint(scratch.path() / name)), 1e5);
  }
}

TEST(CachedLayers, AreThoseThatNobodyElseNeedsTheMemoryOf) {
  const MemoryPlan plan = plan_memory(recipe(Recompute::kAuto), needs(), kLimit);
  const std::int64_t resident = plan.resident();
  EXPECT_EQ(cached_layers(plan, 0), 0);
  EXPECT_EQ(cached_layers(plan, (resident + 1'000'000) / 9 * 10 - 10), 0);
  EXPECT_EQ(cached_layers(plan, (resident + 1'000'000) / 9 * 10 + 20), 1);
  EXPECT_EQ(cached_layers(plan, (2 * resident + 3'000'000) / 9 * 10 + 20, 2), 3);
  EXPECT_EQ(cached_layers(plan, std::int64_t{1} << 40), 4);
}

TEST(FitIntoMemory, ReadsAsUsedWhatDoesNotFit) {
  const Scratch scratch;
  init_checkpoint(*preset("tiny"), 1, ExpertStorage::kMxfp4, std::nullopt, scratch.path() / "model");
  const Checkpoint checkpoint(scratch.path() / "model");
  const std::vector<std::int32_t> tokens(40, 7);
  const std::vector<float> weights(40, 1.0f);
  const std::vector<std::int64_t> offsets{0, 40};
  const TokenRows rows{tokens, weights, offsets};
  std::vector<at::Tensor> found;
  for (const std::int64_t free : {checkpoint.stored_bytes() * 2, checkpoint.stored_bytes() / 2, std::int64_t{1}}) {
    Transformer transformer(checkpoint, at::kBFloat16);
    fit_into_memory(transformer, checkpoint, free);
    const at::Tensor& last = transformer.layers().back().experts.down.packed.blocks;
    const void* mapped = last.const_data_ptr();
    found.push_back(forward(transformer, rows));
    EXPECT_EQ(last.const_data_ptr() == mapped, free > checkpoint.stored_bytes()) << free;
    EXPECT_TRUE(at::equal(found.back(), found.front())) << free;
  }
}

}  // namespace
}  // namespace ossature
