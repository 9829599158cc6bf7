// What a run will need, and what to change where that is too much.
#include "train/plan/estimate.h"

#include <gtest/gtest.h>

#include "data/token_file/token_file.h"
#include "model/export/init.h"
#include "tests/malformed/scratch.h"
#include "train/failure/errors.h"
#include "train/run/trained_model.h"

namespace ossature {
namespace {

class EstimateTest : public ::testing::Test {
 protected:
  EstimateTest() {
    init_checkpoint(*preset("tiny"), 1, ExpertStorage::kMxfp4, std::nullopt, scratch.path() / "model");
    recipe.base_model = scratch.path() / "model";
    recipe.output_dir = scratch.path() / "run";
    recipe.data.train = {{scratch.path() / "absent.h5", 1.0}};
    recipe.data.sequence_length = 512;
    recipe.train.micro_batch_size = 4;
    recipe.train.gradient_accumulation_steps = 2;
  }
  [[nodiscard]] std::int64_t resident(const Recipe& changed, std::int64_t limit) const {
    const Checkpoint base(changed.base_model);
    return plan_memory(changed, memory_needs(changed, base, num_trained(changed, base)), limit).resident();
  }

  Scratch scratch;
  Recipe recipe;
};

TEST_F(EstimateTest, CountsWhatTheModelTrains) {
  for (const std::string target : {"", "mlp.experts.down_proj"}) {
    recipe.lora.target_parameters.clear();
    if (!target.empty()) recipe.lora.target_parameters = {target};
    TrainedModel model(recipe);
    EXPECT_EQ(num_trained(recipe, model.checkpoint()), model.parameters().numel()) << target;
    EXPECT_EQ(estimate(recipe, false).trained_parameters, model.parameters().numel());
  }
  recipe.lora.target_modules = {"no_such"};
  EXPECT_THROW((void)num_trained(recipe, Checkpoint(recipe.base_model)), RecipeError);
}

TEST_F(EstimateTest, PartsAddUpWithALongSampleReply) {
  recipe.evaluation.sample_prompts = {std::string(1 << 20, 'x')};
  const Estimate found = estimate(recipe, false);
  EXPECT_GT(found.memory.replies_beyond_step(), 0);
  const Inspection report = found.report();
  std::int64_t sum = 0;
  for (const auto& row : report.tables.front().rows) sum += std::get<std::int64_t>(row.back());
  EXPECT_EQ(sum, found.memory.resident());
}

TEST_F(EstimateTest, PartsAddUp) {
  recipe.train.max_steps = 7;
  const Estimate found = estimate(recipe, false);
  EXPECT_TRUE(found.fits());
  EXPECT_TRUE(found.ways_out.empty());
  EXPECT_EQ(found.tokens_per_step, 512 * 4 * 2);
  EXPECT_EQ(found.steps, 7);
  EXPECT_EQ(found.seconds(), std::nullopt);
  const Inspection report = found.report();
  std::int64_t sum = 0;
  for (const auto& row : report.tables.front().rows) sum += std::get<std::int64_t>(row.back());
  EXPECT_EQ(sum, found.memory.resident());
  // Values and two moments of each parameter, of 3 checkpoints and the one being written; then the adapter.
  EXPECT_EQ(found.checkpoint_bytes, 4 * 12 * found.trained_parameters);
  EXPECT_EQ(found.result_bytes, 4 * found.trained_parameters);
  EXPECT_GT(found.free_disk_bytes, 0);
}

// Each epoch ends with what is left of it.
TEST_F(EstimateTest, StepsAreThoseOfTheRun) {
  const auto file = scratch.path() / "tokens.h5";
  {
    TokenFileWriter writer(file, 512, "");
    for (int sample = 0; sample < 9; ++sample)
      writer.add(std::vector<std::int32_t>(512, 7), std::vector<float>(512, 1.0f));
    writer.finish();
  }
  recipe.data.train = {{file, 1.0}};
  recipe.train.epochs = 3;
  EXPECT_EQ(estimate(recipe, false).steps, 5) << "three epochs of three micro-batches of up to four rows, two a step";
}

TEST_F(EstimateTest, WorkGrowsWithWhatIsComputedAgain) {
  recipe.train.recompute = Recompute::kOff;
  const double once = estimate(recipe, false).gflop_per_token;
  recipe.train.recompute = Recompute::kOn;
  const double again = estimate(recipe, false).gflop_per_token;
  const ModelConfig config = *preset("tiny");
  const double head = 2e-9 * static_cast<double>(config.hidden_size * config.vocab_size);
  EXPECT_NEAR(again - 2 * head, 1.5 * (once - 2 * head), 1e-12);
  recipe.train.max_steps = 3;
  const Estimate probed = estimate(recipe, true);
  EXPECT_GT(probed.gflop_per_second, 1.0);
  EXPECT_NEAR(*probed.seconds(), 3 * 4096 * again / (kShareOfRoofline * probed.gflop_per_second), 1e-6);
}

TEST_F(EstimateTest, WaysOutFitAndTheRunIsRefusedWithThem) {
  const std::int64_t whole = resident(recipe, std::int64_t{1} << 40);
  // Too little for the recipe however its layers and weights are handled, enough for smaller ones.
  const std::int64_t limit = resident(recipe, 1) - 1;
  ASSERT_LT(limit, whole);
  const Checkpoint base(recipe.base_model);
  const std::vector<WayOut> ways = ways_out(recipe, base, limit);
  ASSERT_FALSE(ways.empty());
  EXPECT_LE(ways.size(), 3U);
  for (const WayOut& way : ways) {
    std::vector<std::string> changes;
    std::istringstream words(way.change);
    for (std::string word; words >> word;) changes.push_back(word);
    const Recipe changed = parse_recipe(to_yaml(recipe), "recipe", changes);
    EXPECT_EQ(resident(changed, limit), way.resident) << way.change;
    EXPECT_LE(way.resident, limit) << way.change;
    EXPECT_EQ(changed.train.micro_batch_size * changed.train.gradient_accumulation_steps, 8) << way.change;
  }
  const MemoryPlan plan = plan_memory(recipe, memory_needs(recipe, base, num_trained(recipe, base)), limit);
  try {
    check_fits(recipe, base, plan);
    FAIL() << "was let through";
  } catch (const OutOfMemoryError& error) {
    for (const WayOut& way : ways) EXPECT_NE(std::string(error.what()).find(way.change), std::string::npos);
  }
  EXPECT_NO_THROW(check_fits(recipe, base, plan_memory(recipe, plan.needs, whole)));
}

}  // namespace
}  // namespace ossature
