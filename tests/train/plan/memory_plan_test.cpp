// How a run is fitted into memory: which layers are computed again, when weights are read as they are used.
#include "train/plan/memory_plan.h"

#include <gtest/gtest.h>

namespace ossature {
namespace {

/// Round numbers: 4 layers, weights of 4,000 and 1,000 for each, inputs of 10, kept 100, a layer at work 50 more.
MemoryNeeds needs() {
  MemoryNeeds needs;
  needs.program = 50;
  needs.weights = 4'000;
  needs.layer_weights = 1'000;
  needs.trained = 200;
  needs.input = 10;
  needs.kept = 100;
  needs.working = 50;
  needs.head = 120;
  needs.num_layers = 4;
  return needs;
}

constexpr std::int64_t kHeld = 50 + 200 + 150 + 4 * 10;  // with every layer computed again

Recipe recipe(Recompute recompute, std::int64_t accumulation = 8) {
  Recipe recipe;
  recipe.train.recompute = recompute;
  recipe.train.gradient_accumulation_steps = accumulation;
  return recipe;
}

TEST(MemoryPlan, AutoKeepsAsManyLayersAsFit) {
  for (const auto& [limit, kept] : {std::pair<std::int64_t, std::int64_t>{4'000 + kHeld, 0},
                                    {4'000 + kHeld + 99, 0},
                                    {4'000 + kHeld + 100, 1},
                                    {4'000 + kHeld + 369, 3},
                                    {4'000 + kHeld + 370, 4},
                                    {1'000'000, 4}}) {
    const MemoryPlan plan = plan_memory(recipe(Recompute::kAuto), needs(), limit);
    EXPECT_EQ(plan.kept_layers, kept) << limit;
    EXPECT_FALSE(plan.pages);
    EXPECT_EQ(plan.micro_batches_together, 1);
    // Once no layer runs again, the head needs the most.
    EXPECT_EQ(plan.resident(), 4'000 + kHeld + kept * 100 - (kept == 4 ? 30 : 0));
    EXPECT_LE(plan.resident(), limit);
  }
}

TEST(MemoryPlan, WhatTheRecipeSaysHolds) {
  EXPECT_EQ(plan_memory(recipe(Recompute::kOn), needs(), 1'000'000).kept_layers, 0);
  const MemoryPlan off = plan_memory(recipe(Recompute::kOff), needs(), 4'000 + kHeld);
  EXPECT_EQ(off.kept_layers, 4);
  EXPECT_TRUE(off.pages);  // weights give way
}

TEST(MemoryPlan, WeightsThatDoNotFitAreReadOnceForManyMicroBatches) {
  const std::int64_t one = kHeld + 2 * 1'000;
  for (const auto recompute : {Recompute::kAuto, Recompute::kOn}) {
    for (const auto& [limit, together] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                          {one, 1},
                                          {one + 39, 1},
                                          {one + 40, 2},
                                          {one + 120, 4},
                                          {one + 160, 5}}) {
      const MemoryPlan plan = plan_memory(recipe(recompute, 5), needs(), limit);
      EXPECT_TRUE(plan.pages);
      EXPECT_EQ(plan.kept_layers, 0);
      EXPECT_EQ(plan.micro_batches_together, together) << limit;
      EXPECT_EQ(plan.resident(), one + (together - 1) * 40);
    }
  }
}

TEST(MemoryPlan, WhatRoomThereIsBesideThoseKeepsLayers) {
  const std::int64_t five = kHeld + 2 * 1'000 + 4 * 40;
  for (const auto& [limit, kept] : {std::pair<std::int64_t, std::int64_t>{five + 499, 0},
                                    {five + 500, 1},
                                    {five + 1'200, 2},
                                    {4'000 + kHeld - 1, 3}}) {
    const MemoryPlan plan = plan_memory(recipe(Recompute::kAuto, 5), needs(), limit);
    EXPECT_TRUE(plan.pages);
    EXPECT_EQ(plan.micro_batches_together, 5);
    EXPECT_EQ(plan.kept_layers, kept) << limit;
    EXPECT_EQ(plan.resident(), five + kept * 500);
    EXPECT_EQ(plan_memory(recipe(Recompute::kOn, 5), needs(), limit).kept_layers, 0);
  }
}

TEST(MemoryPlan, CountsTheOptimizersStateAndTheBestValues) {
  const Checkpoint checkpoint(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small/hf");
  Recipe counted = recipe(Recompute::kAuto);
  for (const auto& [state, bytes] :
       std::vector<std::pair<OptimizerState, std::int64_t>>{{OptimizerState::kFloat32, 16 * 512},
                                                            {OptimizerState::kBFloat16, 12 * 512},
                                                            {OptimizerState::k8Bit, 5136}}) {
    counted.train.optimizer_state = state;
    counted.evaluation.early_stopping_patience.reset();
    EXPECT_EQ(memory_needs(counted, checkpoint, 512).trained, bytes);
    counted.evaluation.early_stopping_patience = 3;
    EXPECT_EQ(memory_needs(counted, checkpoint, 512).trained, bytes + 4 * 512);
  }
}

TEST(MemoryPlan, CountsASampleReplyWhereItNeedsMoreThanAStep) {
  const Checkpoint checkpoint(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small/hf");
  Recipe counted = recipe(Recompute::kAuto);
  EXPECT_EQ(memory_needs(counted, checkpoint, 512).replies, 0);
  std::int64_t before = 0;
  for (const std::size_t size : {1, 1'000, 10'000}) {
    counted.evaluation.sample_prompts = {"short", std::string(size, 'x')};
    const std::int64_t replies = memory_needs(counted, checkpoint, 512).replies;
    EXPECT_GT(replies, before) << size;
    before = replies;
  }
  MemoryNeeds with = needs();
  const std::int64_t step = plan_memory(recipe(Recompute::kOn), with, 1'000'000).activations();
  for (const std::int64_t replies : {step - 1, step, step + 7}) {
    with.replies = replies;
    const MemoryPlan plan = plan_memory(recipe(Recompute::kOn), with, 1'000'000);
    EXPECT_EQ(plan.activations(), std::max(step, replies));
    EXPECT_EQ(plan.replies_beyond_step(), std::max<std::int64_t>(0, replies - step));
    EXPECT_EQ(plan.resident(), 4'000 + 50 + 200 + std::max(step, replies));
  }
}

TEST(MemoryPlan, LimitIsTheRecipesInGibibytesOrWhatIsFree) {
  Recipe with = recipe(Recompute::kAuto);
  with.train.memory_limit = 1.5;
  EXPECT_EQ(memory_limit(with), 3 * (std::int64_t{1} << 29));
  const std::int64_t free = memory_limit(recipe(Recompute::kAuto));
  EXPECT_GT(free, std::int64_t{1} << 28);
  EXPECT_LT(free, std::int64_t{1} << 50);
}

TEST(MemoryPlan, SaysWhatItDoes) {
  EXPECT_EQ(plan_memory(recipe(Recompute::kAuto), needs(), 4'700).describe(),
            "0.0 GB of 0.0 GB: weights 0.0 GB, trained 0.0 GB, activations 0.0 GB; 2 of 4 layers are computed again in "
            "the backward pass");
  const std::string paged = plan_memory(recipe(Recompute::kAuto, 2), needs(), 4'000).describe();
  EXPECT_NE(paged.find("read as they are used, once for 2 micro-batches"), std::string::npos) << paged;
}

}  // namespace
}  // namespace ossature
