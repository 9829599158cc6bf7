// A run that was stopped and goes on leaves the same bytes as one that was not.
#include <ATen/ATen.h>

#include <algorithm>

#include "model/files/checkpoint_error.h"
#include "tests/train/small_run.h"
#include "train/failure/errors.h"
#include "train/failure/failure.h"
#include "train/loop/trainer.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What the run decided, without what only the clock and the machine did.
std::vector<json> decided(const fs::path& run_dir) {
  std::vector<json> lines;
  std::ifstream file(run_dir / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    json& object = lines.emplace_back(json::parse(line));
    for (const char* key : {"seconds", "bookkeeping_seconds", "tokens_per_second", "peak_rss_bytes"}) object.erase(key);
  }
  return lines;
}

void expect_same_run(const fs::path& found, const fs::path& expected) {
  const std::string adapter = read_bytes(expected / "adapter/adapter_model.safetensors");
  EXPECT_FALSE(adapter.empty());
  EXPECT_TRUE(read_bytes(found / "adapter/adapter_model.safetensors") == adapter);
  EXPECT_EQ(decided(found), decided(expected));
}

class Resume : public ::testing::Test {
 protected:
  /// Runs until stderr reads `at`, as if SIGTERM came then. Returns what the run threw about it.
  static std::string run_until(const Recipe& recipe, const std::string& at) {
    const CapturedProgress progress(at);
    try {
      train(recipe, false);
    } catch (const InterruptedError& error) {
      EXPECT_EQ(describe_failure(error).exit_code, 130);
      return error.what();
    }
    ADD_FAILURE() << "was not interrupted; said\n" << progress.text();
    return "";
  }
  static void run(const Recipe& recipe, bool resume) {
    const CapturedProgress progress;
    train(recipe, resume);
  }

  Scratch scratch_;
  fs::path tokens_ = write_tokens(scratch_.path() / "train.h5", random_samples(7, 1));
  Recipe whole_ = small_recipe(tokens_, scratch_.path() / "whole");
  Recipe parts_ = small_recipe(tokens_, scratch_.path() / "parts");
};

struct Case {
  const char* name;
  double dropout;
  std::int64_t accumulation;
  bool packing;
  bool attention_only = false;
  OptimizerState optimizer_state = OptimizerState::kFloat32;
};

class ResumeOf : public Resume, public ::testing::WithParamInterface<Case> {};

TEST_P(ResumeOf, InterruptedRunEqualsAWholeOne) {
  for (Recipe* recipe : {&whole_, &parts_}) {
    recipe->lora.lora_dropout = GetParam().dropout;
    if (GetParam().attention_only) recipe->lora.target_parameters.clear();
    recipe->train.gradient_accumulation_steps = GetParam().accumulation;
    recipe->train.optimizer_state = GetParam().optimizer_state;
    recipe->data.packing = GetParam().packing;
    recipe->data.shuffle = true;
    recipe->data.validation = tokens_;
    recipe->evaluation.every_steps = 2;
    recipe->train.max_steps = 7;
    recipe->train.seed = 5;
  }
  run(whole_, false);
  const std::string message = run_until(parts_, "step 3/7");
  EXPECT_EQ(message, "interrupted after step 3; go on with --resume");
  EXPECT_FALSE(fs::exists(parts_.output_dir / "adapter"));
  EXPECT_TRUE(fs::exists(parts_.output_dir / "checkpoints/step-3"));
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
}

INSTANTIATE_TEST_SUITE_P(Runs, ResumeOf,
                         ::testing::Values(Case{"Plain", 0.0, 1, false}, Case{"Dropout", 0.25, 1, true},
                                           Case{"DropoutAccumulated", 0.25, 3, false},
                                           Case{"DropoutOnAttention", 0.25, 2, true, true},
                                           Case{"BFloat16Moments", 0.0, 1, false, false, OptimizerState::kBFloat16},
                                           Case{"EightBitMoments", 0.0, 1, false, false, OptimizerState::k8Bit}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST_F(Resume, AShorterRunGoesOnToMoreSteps) {
  for (Recipe* recipe : {&whole_, &parts_}) recipe->train.lr_scheduler = LrScheduler::kConstant;
  run(whole_, false);
  parts_.train.max_steps = 2;
  run(parts_, false);
  parts_.train.max_steps = 5;
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
}

// A killed program saves nothing: the steps since the last checkpoint are done again.
TEST_F(Resume, FromAnOlderCheckpointForgetsLaterSteps) {
  whole_.checkpoint.every_steps = 2;
  run(whole_, false);
  fs::copy(whole_.output_dir, parts_.output_dir, fs::copy_options::recursive);
  fs::remove_all(parts_.output_dir / "adapter");
  fs::remove_all(parts_.output_dir / "checkpoints/step-5");
  fs::remove_all(parts_.output_dir / "checkpoints/step-4");
  std::ofstream(parts_.output_dir / "metrics.jsonl", std::ios::app) << R"({"step": 6, "lo)";
  parts_.checkpoint.every_steps = 2;
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
}

TEST_F(Resume, OfACompleteRunWritesItsResultAgain) {
  run(whole_, false);
  const std::string adapter = read_bytes(whole_.output_dir / "adapter/adapter_model.safetensors");
  const std::string metrics = read_bytes(whole_.output_dir / "metrics.jsonl");
  fs::remove_all(whole_.output_dir / "adapter");
  run(whole_, true);
  EXPECT_TRUE(read_bytes(whole_.output_dir / "adapter/adapter_model.safetensors") == adapter);
  EXPECT_EQ(read_bytes(whole_.output_dir / "metrics.jsonl"), metrics);
}

TEST_F(Resume, WithoutARunBeginsOne) {
  run(whole_, false);
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
}

TEST_F(Resume, KeepsTheBestOfEarlyStopping) {
  for (Recipe* recipe : {&whole_, &parts_}) {
    recipe->data.train = {{write_tokens(scratch_.path() / "one.h5", random_samples(1, 3))}};
    recipe->data.validation = write_tokens(scratch_.path() / "validation.h5", random_samples(8, 4));
    recipe->train.max_steps = 60;
    recipe->train.learning_rate = 2e-2;
    recipe->train.lr_scheduler = LrScheduler::kConstant;
    recipe->evaluation.every_steps = 1;
    recipe->evaluation.early_stopping_patience = 3;
  }
  run(whole_, false);
  const std::vector<json> lines = metrics_with(whole_.output_dir, "validation_loss");
  ASSERT_LT(lines.size(), 60u);
  // One step after the best: what is kept is no longer what is trained.
  run_until(parts_, "step " + std::to_string(lines.size() - 3) + "/60");
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
  // It had ended by itself, so going on once more trains nothing.
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
}

/// On the embedded model, which can reply.
TEST_F(Resume, AnEvaluationThatWasInterruptedIsDoneAnew) {
  const fs::path model = fs::path(OSSATURE_SOURCE_DIR) / "recipes/embedded/model";
  for (Recipe* recipe : {&whole_, &parts_}) {
    recipe->base_model = model;
    recipe->data.validation = tokens_;
    recipe->train.max_steps = 4;
    recipe->evaluation.every_steps = 2;
    recipe->evaluation.early_stopping_patience = 3;
    recipe->evaluation.sample_prompts = {"One", "Two"};
    recipe->evaluation.sample_tokens = 4;
  }
  run(whole_, false);
  const std::string samples = read_bytes(whole_.output_dir / "samples.jsonl");
  const auto due = [](const fs::path& run_dir, int step) {
    std::ifstream file(run_dir / "checkpoints" / ("step-" + std::to_string(step)) / "position.json");
    return json::parse(file)["evaluation_due"].get<bool>();
  };
  struct {
    const char* at;
    int step;
    std::size_t validations, replies;  // written until then
  } const cases[] = {{"step 0/4  validation", 0, 1, 0}, {"step 2/4  loss", 2, 1, 2}, {"step 2/4  validation", 2, 2, 2},
                     {"step 2/4  \"One\"", 2, 2, 3},    {"step 4/4  loss", 4, 2, 4}, {"step 4/4  \"One\"", 4, 3, 5}};
  for (const auto& each : cases) {
    SCOPED_TRACE(each.at);
    fs::remove_all(parts_.output_dir);
    EXPECT_EQ(run_until(parts_, each.at),
              "interrupted after step " + std::to_string(each.step) + "; go on with --resume");
    EXPECT_EQ(metrics_with(parts_.output_dir, "validation_loss").size(), each.validations);
    const std::string replies = read_bytes(parts_.output_dir / "samples.jsonl");
    EXPECT_EQ(static_cast<std::size_t>(std::count(replies.begin(), replies.end(), '\n')), each.replies);
    EXPECT_TRUE(due(parts_.output_dir, each.step));
    const fs::path saved = scratch_.path() / "saved";
    fs::remove_all(saved);
    fs::copy(parts_.output_dir / "checkpoints", saved, fs::copy_options::recursive);
    for (int kills = 0; kills < 2; ++kills) {
      run(parts_, true);
      expect_same_run(parts_.output_dir, whole_.output_dir);
      EXPECT_TRUE(read_bytes(parts_.output_dir / "samples.jsonl") == samples);
      EXPECT_FALSE(due(parts_.output_dir, 4));
      // As if a kill had come before the next checkpoint.
      fs::remove_all(parts_.output_dir / "adapter");
      fs::remove_all(parts_.output_dir / "checkpoints");
      fs::copy(saved, parts_.output_dir / "checkpoints", fs::copy_options::recursive);
    }
  }
}

TEST_F(Resume, FullModeToo) {
  for (Recipe* recipe : {&whole_, &parts_}) {
    recipe->base_model = small_golden() / "hf-bf16";
    recipe->train.mode = TrainMode::kFull;
    recipe->train.mxfp4_finish_steps = 3;
  }
  run(whole_, false);
  run_until(parts_, "step 3/5");
  run(parts_, true);
  EXPECT_TRUE(read_bytes(parts_.output_dir / "model/model.safetensors") ==
              read_bytes(whole_.output_dir / "model/model.safetensors"));
  EXPECT_EQ(decided(parts_.output_dir), decided(whole_.output_dir));
}

TEST_F(Resume, RefusesAnotherRecipe) {
  run(whole_, false);
  const std::string recipe_yaml = read_bytes(whole_.output_dir / "recipe.yaml");
  Recipe other = whole_;
  other.lora.r = 3;
  other.train.seed = 9;
  other.train.learning_rate = 5e-3;  // may change
  try {
    run(other, true);
    ADD_FAILURE() << "went on with another rank";
  } catch (const RecipeError& error) {
    const std::string dir = whole_.output_dir.string();
    EXPECT_EQ(std::string(error.what()),
              "lora.r is 3; the run in " + dir + " began with 2 and can only go on with that\n" +
                  "train.seed is 9; the run in " + dir + " began with 0 and can only go on with that");
  }
  other = whole_;
  other.data.train = {{write_tokens(scratch_.path() / "other.h5", random_samples(6, 2))}};
  EXPECT_THROW(run(other, true), CheckpointError);
  EXPECT_EQ(read_bytes(whole_.output_dir / "recipe.yaml"), recipe_yaml);
}

TEST_F(Resume, SeveralFilesWithWeights) {
  const fs::path more = write_tokens(scratch_.path() / "more.h5", random_samples(7, 9));
  for (Recipe* recipe : {&whole_, &parts_}) {
    recipe->data.train = {{tokens_, 0.7}, {more, 2.0}};
    recipe->data.packing = true;
    recipe->data.shuffle = true;
    recipe->train.max_steps = 20;  // more than two epochs
  }
  run(whole_, false);
  run_until(parts_, "step 8/20");
  parts_.data.num_workers = 3;
  run(parts_, true);
  expect_same_run(parts_.output_dir, whole_.output_dir);
}

TEST_F(Resume, RefusesOtherData) {
  run(whole_, false);
  const auto message = [&](const std::vector<TrainingFile>& files) -> std::string {
    Recipe other = whole_;
    other.data.train = files;
    other.train.max_steps = 6;
    try {
      run(other, true);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  };
  const fs::path moved = scratch_.path() / "moved.h5", changed = scratch_.path() / "changed.h5";
  fs::copy_file(tokens_, moved);
  TokenFileReader reader(tokens_);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(reader.num_tokens()));
  std::vector<float> weights(tokens.size());
  reader.read_tokens(0, tokens);
  reader.read_loss_weights(0, weights);
  tokens.back() ^= 1;
  {
    TokenFileWriter writer(changed, reader.vocab_size(), "");
    const auto offsets = reader.sample_offsets();
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      const auto first = static_cast<std::size_t>(offsets[s]), size = static_cast<std::size_t>(offsets[s + 1]) - first;
      writer.add(std::span(tokens).subspan(first, size), std::span(weights).subspan(first, size));
    }
    writer.finish();
  }
  const std::string one_token = message({{changed}}), two_files = message({{tokens_}, {moved}});
  EXPECT_NE(one_token.find(changed.string() + " has "), std::string::npos) << one_token;
  EXPECT_NE(one_token.find("; in its place the run began with "), std::string::npos) << one_token;
  EXPECT_NE(one_token.find("; resume with the token files and weights that began the run"), std::string::npos);
  EXPECT_NE(two_files.find("the run began with 1 training files, data.train names 2"), std::string::npos) << two_files;
  EXPECT_NE(message({{tokens_, 2.0}}).find("weight 2; in its place"), std::string::npos);
  EXPECT_EQ(message({{moved}}), "");  // the same contents elsewhere
}

TEST_F(Resume, ANewRunRefusesAFolderInUse) {
  run(whole_, false);
  EXPECT_THROW(run(whole_, false), RecipeError);
  fs::remove(whole_.output_dir / "metrics.jsonl");  // its checkpoints are still there
  EXPECT_THROW(run(whole_, false), RecipeError);
}

}  // namespace
}  // namespace ossature
