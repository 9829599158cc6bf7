#include "train/run/run_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "tests/malformed/scratch.h"
#include "train/recipe/recipe_keys.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Change = std::function<void(Recipe&)>;

class RunFolder : public ::testing::Test {
 protected:
  Scratch scratch_;
  fs::path dir_ = scratch_.path() / "run";
  Recipe recipe_ = recipe();

  [[nodiscard]] Recipe recipe() const {
    Recipe recipe;
    recipe.base_model = "base";
    recipe.output_dir = dir_;
    recipe.data.train = {{"train.h5"}};
    return recipe;
  }
  /// The folder as a run of recipe_ leaves it.
  void begin() const {
    write_run_recipe(recipe_);
    scratch_.write("run/metrics.jsonl", "");
    scratch_.write("run/checkpoints/step-3/position.json", "{}");
  }
  /// The message of the refusal; "" if the folder is accepted. Nothing is written either way.
  [[nodiscard]] std::string refusal(const Recipe& recipe, bool resume) const {
    const auto before = contents();
    std::string message;
    try {
      check_run_folder(recipe, resume);
    } catch (const RecipeError& error) {
      message = error.what();
      EXPECT_FALSE(message.empty());
    }
    EXPECT_EQ(contents(), before);
    return message;
  }

 private:
  [[nodiscard]] std::set<std::pair<fs::path, std::string>> contents() const {
    std::set<std::pair<fs::path, std::string>> found;
    for (const auto& entry : fs::recursive_directory_iterator(scratch_.path())) {
      found.emplace(entry.path(), entry.is_regular_file() ? read_bytes(entry.path()) : "");
    }
    return found;
  }
};

TEST_F(RunFolder, ANewRunTakesWhatHoldsNone) {
  EXPECT_EQ(refusal(recipe_, false), "");
  fs::create_directories(dir_);
  EXPECT_EQ(refusal(recipe_, false), "");
  scratch_.write("run/notes.txt", "mine");
  scratch_.write("run/recipe.yaml", "of a run that was refused");
  scratch_.write("run/checkpoints/step-1.partial-77/position.json", "{}");  // never completed
  EXPECT_EQ(refusal(recipe_, false), "");
}

TEST_F(RunFolder, ANewRunRefusesWhatHoldsOne) {
  for (const char* file : {"metrics.jsonl", "checkpoints/step-0/position.json"}) {
    fs::remove_all(dir_);
    scratch_.write(std::string("run/") + file, "");
    EXPECT_EQ(refusal(recipe_, false), "output_dir: " + dir_.string() +
                                           " already holds a run; add --resume to go on with it, or give another "
                                           "output_dir");
  }
}

// A result whose checkpoints are gone, or a model of the user's own, perhaps the base.
TEST_F(RunFolder, RefusesToReplaceAResultThatItCannotGoOnFrom) {
  for (const bool resume : {false, true}) {
    for (const bool full : {false, true}) {
      fs::remove_all(dir_);
      scratch_.write("run/adapter/adapter_config.json", "{}");
      scratch_.write("run/model/config.json", "{}");
      recipe_.train.mode = full ? TrainMode::kFull : TrainMode::kLora;
      const std::string mine = full ? "model" : "adapter";
      EXPECT_TRUE(refusal(recipe_, resume)
                      .starts_with("output_dir: " + dir_.string() + " already holds " + mine +
                                   ", which the run would replace"));
      fs::remove_all(dir_ / mine);  // the other is not touched by such a run
      EXPECT_EQ(refusal(recipe_, resume), "");
    }
  }
}

TEST_F(RunFolder, ResumeWithoutAStateBeginsAnew) {
  EXPECT_EQ(refusal(recipe_, true), "");
  recipe_.lora.r = 3;
  write_run_recipe(recipe_);
  scratch_.write("run/metrics.jsonl", "");  // killed before its first checkpoint
  EXPECT_EQ(refusal(recipe(), true), "");
}

TEST_F(RunFolder, ResumeTakesTheSameRecipe) {
  begin();
  EXPECT_EQ(refusal(recipe_, true), "");
  scratch_.write("run/adapter/adapter_config.json", "{}");  // it was complete
  EXPECT_EQ(refusal(recipe_, true), "");
}

/// A change of each key that a resumed run may not change.
std::vector<std::pair<std::string, Change>> fixed_changes() {
  return {{"dtype", [](Recipe& r) { r.dtype = ComputeDtype::kFloat32; }},
          {"lora.r", [](Recipe& r) { r.lora.r = 3; }},
          {"lora.lora_alpha", [](Recipe& r) { r.lora.lora_alpha = 3; }},
          {"lora.lora_dropout", [](Recipe& r) { r.lora.lora_dropout = 0.5; }},
          {"lora.use_rslora", [](Recipe& r) { r.lora.use_rslora = true; }},
          {"lora.target_modules", [](Recipe& r) { r.lora.target_modules = {"q_proj"}; }},
          {"lora.target_parameters", [](Recipe& r) { r.lora.target_parameters = {}; }},
          {"lora.layers_to_transform", [](Recipe& r) { r.lora.layers_to_transform = {1}; }},
          {"lora.rank_pattern",
           [](Recipe& r) {
             r.lora.rank_pattern = {{"q_proj", 2}};
           }},
          {"lora.alpha_pattern",
           [](Recipe& r) {
             r.lora.alpha_pattern = {{"q_proj", 2}};
           }},
          {"data.sequence_length", [](Recipe& r) { r.data.sequence_length = 99; }},
          {"data.packing", [](Recipe& r) { r.data.packing = false; }},
          {"data.shuffle", [](Recipe& r) { r.data.shuffle = false; }},
          {"train.mode", [](Recipe& r) { r.train.mode = TrainMode::kFull; }},
          {"train.micro_batch_size", [](Recipe& r) { r.train.micro_batch_size = 3; }},
          {"train.gradient_accumulation_steps", [](Recipe& r) { r.train.gradient_accumulation_steps = 3; }},
          {"train.seed", [](Recipe& r) { r.train.seed = 3; }},
          {"train.optimizer_state", [](Recipe& r) { r.train.optimizer_state = OptimizerState::kBFloat16; }}};
}

/// A change of each other key.
std::vector<std::pair<std::string, Change>> free_changes() {
  return {{"base_model", [](Recipe& r) { r.base_model = "moved"; }},
          {"output_dir", [](Recipe& r) { r.output_dir /= "."; }},
          {"device", [](Recipe& r) { r.device = Device::kCpu; }},
          {"lora.init_from", [](Recipe& r) { r.lora.init_from = "moved"; }},
          {"data.train", [](Recipe& r) { r.data.train = {{"moved"}}; }},
          {"data.num_workers", [](Recipe& r) { r.data.num_workers = 2; }},
          {"data.validation", [](Recipe& r) { r.data.validation = "v.h5"; }},
          {"train.epochs", [](Recipe& r) { r.train.epochs = 3; }},
          {"train.max_steps", [](Recipe& r) { r.train.max_steps = 30; }},
          {"train.learning_rate", [](Recipe& r) { r.train.learning_rate = 3; }},
          {"train.lr_scheduler", [](Recipe& r) { r.train.lr_scheduler = LrScheduler::kLinear; }},
          {"train.warmup_steps", [](Recipe& r) { r.train.warmup_steps = 3; }},
          {"train.min_lr_ratio", [](Recipe& r) { r.train.min_lr_ratio = 0.3; }},
          {"train.weight_decay", [](Recipe& r) { r.train.weight_decay = 0.3; }},
          {"train.adam_beta1", [](Recipe& r) { r.train.adam_beta1 = 0.3; }},
          {"train.adam_beta2", [](Recipe& r) { r.train.adam_beta2 = 0.3; }},
          {"train.adam_epsilon", [](Recipe& r) { r.train.adam_epsilon = 0.3; }},
          {"train.max_grad_norm", [](Recipe& r) { r.train.max_grad_norm = 0.3; }},
          {"train.max_skipped_steps", [](Recipe& r) { r.train.max_skipped_steps = 0; }},
          {"train.recompute", [](Recipe& r) { r.train.recompute = Recompute::kOn; }},
          {"train.memory_limit", [](Recipe& r) { r.train.memory_limit = 9.5; }},
          {"train.mxfp4_finish_steps", [](Recipe& r) { r.train.mxfp4_finish_steps = 3; }},
          {"train.threads", [](Recipe& r) { r.train.threads = 1; }},
          {"train.pipeline_stages", [](Recipe& r) { r.train.pipeline_stages = 2; }},
          {"evaluation.every_steps", [](Recipe& r) { r.evaluation.every_steps = 3; }},
          {"evaluation.early_stopping_patience", [](Recipe& r) { r.evaluation.early_stopping_patience = 1; }},
          {"evaluation.keep_best", [](Recipe& r) { r.evaluation.keep_best = true; }},
          {"evaluation.sample_prompts", [](Recipe& r) { r.evaluation.sample_prompts = {"Hello"}; }},
          {"evaluation.sample_tokens", [](Recipe& r) { r.evaluation.sample_tokens = 9; }},
          {"checkpoint.every_steps", [](Recipe& r) { r.checkpoint.every_steps = 3; }},
          {"checkpoint.keep", [](Recipe& r) { r.checkpoint.keep = 1; }}};
}

TEST_F(RunFolder, EveryKeyIsOneOfBoth) {
  std::multiset<std::string> expected, found;
  for (const RecipeKey& key : recipe_keys()) expected.insert(key.path);
  for (const auto& [key, change] : fixed_changes()) found.insert(key);
  for (const auto& [key, change] : free_changes()) found.insert(key);
  EXPECT_EQ(found, expected);
}

TEST_F(RunFolder, ResumeRefusesAChangeOfWhatIsTrainedAndOfTheRows) {
  begin();
  for (const auto& [key, change] : fixed_changes()) {
    Recipe changed = recipe_;
    change(changed);
    const RecipeKey* known = find_recipe_key(key);
    ASSERT_NE(known, nullptr) << key;
    EXPECT_EQ(refusal(changed, true), key + " is " + known->get(changed) + "; the run in " + dir_.string() +
                                          " began with " + known->get(recipe_) + " and can only go on with that");
  }
}

TEST_F(RunFolder, ResumeTakesAChangeOfAllElse) {
  begin();
  for (const auto& [key, change] : free_changes()) {
    Recipe changed = recipe_;
    change(changed);
    EXPECT_EQ(refusal(changed, true), "") << key;
  }
}

TEST_F(RunFolder, ResumeRefusesEveryChangeAtOnce) {
  begin();
  for (const auto& [key, change] : fixed_changes()) {
    if (key != "train.mode") change(recipe_);
  }
  const std::string message = refusal(recipe_, true);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n') + 2, static_cast<std::ptrdiff_t>(fixed_changes().size()));
}

// recipe.yaml of a full run has no lora section, so what a recipe says there must not count.
TEST_F(RunFolder, ResumeOfAFullRunLooksAtNoLoraKey) {
  recipe_.train.mode = TrainMode::kFull;
  recipe_.lora.r = 16;
  begin();
  EXPECT_EQ(refusal(recipe_, true), "");
}

TEST_F(RunFolder, ResumeRefusesAFolderWithoutItsRecipeOrWithABrokenOne) {
  begin();
  fs::remove(dir_ / "recipe.yaml");
  EXPECT_NE(refusal(recipe_, true).find("recipe.yaml"), std::string::npos);
  for (const char* text : {"", "base_model: [", "lora: {r: x}"}) {
    scratch_.write("run/recipe.yaml", text);
    EXPECT_NE(refusal(recipe_, true).find("recipe.yaml"), std::string::npos) << text;
  }
}

TEST_F(RunFolder, IsHeldByOneAtATime) {
  const Scratch scratch;
  RunLock mine;
  mine.hold(scratch.path());
  EXPECT_NO_THROW(mine.hold(scratch.path()));
  RunLock other;
  EXPECT_THROW(other.hold(scratch.path()), RecipeError);
  {
    const Scratch elsewhere;
    RunLock third;
    EXPECT_NO_THROW(third.hold(elsewhere.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST_F(RunFolder, RecipeIsWrittenWhole) {
  recipe_.train.learning_rate = 0.1 + 0.2;  // no short decimal
  write_run_recipe(recipe_);
  EXPECT_EQ(read_recipe(dir_ / "recipe.yaml"), recipe_);
  recipe_.train.seed = 7;
  write_run_recipe(recipe_);  // in place of the other
  EXPECT_EQ(read_recipe(dir_ / "recipe.yaml"), recipe_);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator{}), 1);
}

TEST_F(RunFolder, RecipeThatCannotBeWrittenIsASystemError) {
  scratch_.write("run", "a file where the folder should be");
  EXPECT_THROW(write_run_recipe(recipe_), std::system_error);
}

}  // namespace
}  // namespace ossature
