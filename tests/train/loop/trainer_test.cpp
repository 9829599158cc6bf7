// What the loop learns from, measures and leaves behind. That its runs can stop and go on is tested in resume_test.cpp.
#include "train/loop/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "data/data_error.h"
#include "model/adapter/adapter.h"
#include "model/adapter/loaded_model.h"
#include "model/export/export.h"
#include "tests/train/small_run.h"
#include "train/evaluation/evaluate.h"
#include "train/failure/errors.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

LossSum loss_of(const fs::path& model, const fs::path& tokens, const std::optional<fs::path>& adapter = std::nullopt) {
  const LoadedModel loaded = load_model(model, adapter, at::kFloat);
  return evaluate(loaded.transformer, std::make_shared<const TokenFileReader>(tokens), 1000);
}

double mean_loss_of(const fs::path& model, const fs::path& tokens,
                    const std::optional<fs::path>& adapter = std::nullopt) {
  const LossSum sum = loss_of(model, tokens, adapter);
  return sum.loss / sum.weight;
}

at::Tensor adapter_values(const fs::path& run_dir) {
  return read_adapter(run_dir / "adapter", Checkpoint(small_golden() / "hf").config()).parameters().values();
}

class Trainer : public ::testing::Test {
 protected:
  Scratch scratch_;
  CapturedProgress progress_;
  fs::path tokens_ = write_tokens(scratch_.path() / "train.h5", random_samples(6, 1));
  fs::path run_dir_ = scratch_.path() / "run";
  Recipe recipe_ = small_recipe(tokens_, run_dir_);
};

TEST_F(Trainer, MetricsOfEveryStep) {
  recipe_.train.lr_scheduler = LrScheduler::kLinear;
  recipe_.train.min_lr_ratio = 0.0;
  train(recipe_, false);
  const std::vector<json> lines = metrics_with(run_dir_, "loss");
  ASSERT_EQ(lines.size(), 5u);
  const std::set<std::string> documented = {"step",           "loss",       "learning_rate",     "grad_norm",
                                            "tokens",         "seconds",    "tokens_per_second", "peak_rss_bytes",
                                            "learned_tokens", "grad_norms", "router_load",       "bookkeeping_seconds"};
  const std::vector<TokenSample> samples = random_samples(6, 1);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::set<std::string> keys;
    for (const auto& [key, value] : lines[i].items()) keys.insert(key);
    for (const char* key : {"adapter_norms", "expert_tokens"})
      EXPECT_EQ(keys.erase(key), i == 0 ? 1u : 0u) << key << " after steps 1, 11, 21";
    EXPECT_EQ(keys, documented);
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_EQ(lines[i]["tokens"], samples[i].tokens.size());
    std::int64_t learned = 0;
    for (std::size_t t = 1; t < samples[i].tokens.size(); ++t) learned += samples[i].loss_weights[t] > 0 ? 1 : 0;
    EXPECT_EQ(lines[i]["learned_tokens"], learned);
    EXPECT_DOUBLE_EQ(lines[i]["learning_rate"].get<double>(), 1e-2 * (1.0 - static_cast<double>(i) / 5.0));
    EXPECT_GT(lines[i]["grad_norm"].get<double>(), 0.0);
    EXPECT_GT(lines[i]["bookkeeping_seconds"].get<double>(), 0.0);
    EXPECT_LT(lines[i]["bookkeeping_seconds"].get<double>(), 60.0);
    EXPECT_GT(lines[i]["peak_rss_bytes"].get<std::int64_t>(), 1'000'000);
  }
  // The first step's loss is the untrained model's on the first sample.
  const fs::path first = write_tokens(scratch_.path() / "first.h5", {samples[0]});
  EXPECT_NEAR(lines[0]["loss"].get<double>(), mean_loss_of(small_golden() / "hf", first), 1e-5);
}

TEST_F(Trainer, LeavesARunFolderWithAnAdapterOfTheBase) {
  train(recipe_, false);
  EXPECT_EQ(read_recipe(run_dir_ / "recipe.yaml"), recipe_);
  EXPECT_TRUE(fs::is_directory(run_dir_ / "tensorboard"));
  EXPECT_TRUE(fs::exists(run_dir_ / "checkpoints/step-5/state.safetensors"));
  EXPECT_GT(adapter_values(run_dir_).abs().max().item<double>(), 0.0);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(run_dir_)) names.insert(entry.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"recipe.yaml", "metrics.jsonl", "sessions.jsonl", "tensorboard",
                                          "checkpoints", "adapter"}));
  EXPECT_LT(mean_loss_of(small_golden() / "hf", tokens_, run_dir_ / "adapter"),
            mean_loss_of(small_golden() / "hf", tokens_));
}

TEST_F(Trainer, EndsAfterItsEpochsOrMaxSteps) {
  recipe_.train.max_steps = std::nullopt;
  recipe_.train.epochs = 2.5;  // of 6 samples: 15 micro-batches, in steps of 4, so the last step has 3
  recipe_.train.gradient_accumulation_steps = 4;
  train(recipe_, false);
  const std::vector<json> lines = metrics_with(run_dir_, "loss");
  ASSERT_EQ(lines.size(), 4u);
  const std::vector<TokenSample> samples = random_samples(6, 1);
  for (std::size_t step = 0; step < 4; ++step) {
    std::size_t tokens = 0;
    for (std::size_t i = 4 * step; i < std::min<std::size_t>(15, 4 * step + 4); ++i) {
      tokens += samples[i % 6].tokens.size();
    }
    EXPECT_EQ(lines[step]["tokens"], tokens) << step;
  }
  recipe_.train.max_steps = 2;
  recipe_.output_dir = scratch_.path() / "shorter";
  train(recipe_, false);
  EXPECT_EQ(metrics_with(recipe_.output_dir, "loss").size(), 2u);
}

// The contract of design: a step's loss is the weighted sum over all its learned tokens by the sum of their weights.
TEST_F(Trainer, AccumulatedMicroBatchesEqualOneOfAllRows) {
  recipe_.train.max_steps = 3;
  recipe_.train.micro_batch_size = 6;
  recipe_.train.adam_epsilon = 1.0;  // so that a step is about proportional to the gradient, not to its sign
  train(recipe_, false);
  Recipe accumulated = recipe_;
  accumulated.output_dir = scratch_.path() / "accumulated";
  accumulated.train.micro_batch_size = 1;
  accumulated.train.gradient_accumulation_steps = 6;
  train(accumulated, false);

  const json together = metrics_with(run_dir_, "loss").at(0),
             apart = metrics_with(accumulated.output_dir, "loss").at(0);
  EXPECT_NEAR(together["loss"].get<double>(), mean_loss_of(small_golden() / "hf", tokens_), 1e-5);
  EXPECT_NEAR(apart["loss"].get<double>(), together["loss"].get<double>(), 1e-6);
  EXPECT_NEAR(apart["grad_norm"].get<double>() / together["grad_norm"].get<double>(), 1.0, 1e-5);
  EXPECT_EQ(apart["learned_tokens"], together["learned_tokens"]);
  // The gradients, clipped to a norm of 1, are sums of the same float32 numbers in another order: some 1e-6 apart, of
  // which a step moves 1e-2; the values, up to 0.2, are rounded to 1.5e-8. The mean of the rows' means, which have
  // other weights, would be 9e-4 apart.
  const at::Tensor expected = adapter_values(run_dir_), found = adapter_values(accumulated.output_dir);
  EXPECT_LT((found - expected).abs().max().item<double>(), 2e-7);
}

TEST_F(Trainer, PackingChangesNoLoss) {
  recipe_.train.max_steps = 1;
  recipe_.train.micro_batch_size = 6;
  recipe_.data.sequence_length = 128;
  train(recipe_, false);
  recipe_.data.packing = true;
  recipe_.train.micro_batch_size = 1;  // one row holds all
  recipe_.output_dir = scratch_.path() / "packed";
  train(recipe_, false);
  const json unpacked = metrics_with(run_dir_, "loss").at(0), packed = metrics_with(recipe_.output_dir, "loss").at(0);
  EXPECT_EQ(packed["tokens"], unpacked["tokens"]);
  EXPECT_NEAR(packed["loss"].get<double>(), unpacked["loss"].get<double>(), 1e-6);
  EXPECT_NEAR(packed["grad_norm"].get<double>() / unpacked["grad_norm"].get<double>(), 1.0, 1e-5);
}

TEST_F(Trainer, ValidatesBeforeBetweenAndAfter) {
  recipe_.data.validation = write_tokens(scratch_.path() / "validation.h5", random_samples(5, 2));
  recipe_.evaluation.every_steps = 2;
  train(recipe_, false);
  const std::vector<json> lines = metrics_with(run_dir_, "validation_loss");
  ASSERT_EQ(lines.size(), 4u);
  const std::vector<int> steps = {0, 2, 4, 5};
  for (std::size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(lines[i]["step"], steps[i]);

  const fs::path base = small_golden() / "hf";
  const LossSum untrained = loss_of(base, *recipe_.data.validation);
  EXPECT_NEAR(lines.front()["validation_loss"].get<double>(), untrained.loss / untrained.weight, 1e-5);
  EXPECT_EQ(lines.front()["learned_tokens"], untrained.num_learned);
  EXPECT_NEAR(lines.back()["validation_loss"].get<double>(),
              mean_loss_of(base, *recipe_.data.validation, run_dir_ / "adapter"), 1e-5);
}

class OverfittingTrainer : public Trainer {
 protected:
  OverfittingTrainer() {
    // One sample learned by heart makes others worse, so the validation loss rises after a while.
    recipe_.data.train = {{write_tokens(scratch_.path() / "one.h5", random_samples(1, 3))}};
    recipe_.data.validation = write_tokens(scratch_.path() / "validation.h5", random_samples(8, 4));
    recipe_.train.learning_rate = 2e-2;
    recipe_.train.lr_scheduler = LrScheduler::kConstant;
    recipe_.evaluation.every_steps = 1;
  }
  [[nodiscard]] std::vector<double> validation_losses() const {
    std::vector<double> losses;
    for (const json& line : metrics_with(run_dir_, "validation_loss")) losses.push_back(line["validation_loss"]);
    return losses;
  }
  [[nodiscard]] double loss_of_result() const {
    return mean_loss_of(small_golden() / "hf", *recipe_.data.validation, run_dir_ / "adapter");
  }
};

TEST_F(OverfittingTrainer, EarlyStoppingKeepsTheBest) {
  recipe_.train.max_steps = 60;
  recipe_.evaluation.early_stopping_patience = 3;
  train(recipe_, false);
  const std::vector<double> losses = validation_losses();
  const auto best = std::min_element(losses.begin(), losses.end());
  ASSERT_LT(losses.size(), 60u) << "nothing got worse, so nothing is tested";
  EXPECT_EQ(losses.end() - best, 1 + 3);
  EXPECT_NEAR(loss_of_result(), *best, 1e-5);
}

TEST_F(OverfittingTrainer, KeepsTheBestWithoutStopping) {
  recipe_.train.max_steps = 30;
  recipe_.evaluation.keep_best = true;
  train(recipe_, false);
  const std::vector<double> losses = validation_losses();
  ASSERT_EQ(losses.size(), 31u);
  const double best = *std::min_element(losses.begin(), losses.end());
  ASSERT_GT(losses.back(), best + 1e-3) << "nothing got worse, so nothing is tested";
  EXPECT_NEAR(loss_of_result(), best, 1e-5);
}

TEST_F(Trainer, FullModeEndsOnTheGridOfMxfp4) {
  recipe_.base_model = small_golden() / "hf-bf16";
  recipe_.train.mode = TrainMode::kFull;
  recipe_.train.micro_batch_size = 6;
  recipe_.train.max_steps = 12;
  recipe_.train.mxfp4_finish_steps = 4;
  train(recipe_, false);
  const auto lost_in_export = [&](const fs::path& run_dir) {
    const fs::path exported = run_dir / "exported";
    export_checkpoint(Checkpoint(run_dir / "model"), {}, {}, exported);
    EXPECT_EQ(Checkpoint(exported).experts(), ExpertStorage::kMxfp4);
    return std::abs(mean_loss_of(exported, tokens_) - mean_loss_of(run_dir / "model", tokens_));
  };
  EXPECT_LT(mean_loss_of(run_dir_ / "model", tokens_), 0.9 * mean_loss_of(recipe_.base_model, tokens_));
  EXPECT_LT(lost_in_export(run_dir_), 1e-4);
  // The contrast: without the finish the experts are off the grid, and rounding them shows.
  recipe_.train.mxfp4_finish_steps = 0;
  recipe_.output_dir = scratch_.path() / "off-grid";
  train(recipe_, false);
  EXPECT_GT(lost_in_export(recipe_.output_dir), 1e-4);
}

TEST_F(Trainer, NonFiniteLossLeavesTheLastGoodStepFails) {
  recipe_.lora.lora_alpha = 1e38;  // the first update makes the second loss infinite or no number
  recipe_.train.max_steps = 1;
  train(recipe_, false);
  recipe_.train.max_steps = 5;
  recipe_.train.lr_scheduler = LrScheduler::kConstant;
  recipe_.train.max_skipped_steps = 0;
  recipe_.output_dir = scratch_.path() / "broken";
  try {
    train(recipe_, false);
    FAIL() << "five steps with an infinite loss";
  } catch (const NonFiniteError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("step 2: ")) << error.what();
  }
  EXPECT_EQ(metrics_with(recipe_.output_dir, "loss").size(), 1u);
  EXPECT_FALSE(fs::exists(recipe_.output_dir / "adapter"));
  const std::string good = read_bytes(run_dir_ / "checkpoints/step-1/state.safetensors");
  EXPECT_FALSE(good.empty());
  EXPECT_EQ(read_bytes(recipe_.output_dir / "checkpoints/step-1/state.safetensors"), good);
}

TEST_F(Trainer, NonFiniteWeightsFailAtTheFirstStep) {
  const fs::path base = scratch_.path() / "base";
  fs::copy(small_golden() / "hf-bf16", base);
  std::string bytes = read_bytes(base / "model.safetensors");
  const auto file = SafetensorsFile::open(base / "model.safetensors");
  const TensorInfo* norm = file->find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  const std::uint16_t infinity = 0x7f80;  // bfloat16
  std::memcpy(bytes.data() + 8 + header_size + norm->begin, &infinity, sizeof infinity);
  scratch_.write("base/model.safetensors", bytes);
  recipe_.base_model = base;
  recipe_.train.max_skipped_steps = 0;
  EXPECT_THROW(train(recipe_, false), NonFiniteError);
  EXPECT_TRUE(metrics_with(run_dir_, "loss").empty());
  EXPECT_TRUE(fs::exists(run_dir_ / "checkpoints/step-0/state.safetensors"));

  recipe_.train.max_skipped_steps = 5;  // as many as there are: then nothing was learned, which is no result
  recipe_.output_dir = scratch_.path() / "skipped";
  EXPECT_THROW(train(recipe_, false), NonFiniteError);
  EXPECT_EQ(metrics_with(recipe_.output_dir, "skipped_steps").size(), 5u);
  EXPECT_FALSE(fs::exists(recipe_.output_dir / "adapter"));
}

/// Six samples, the fourth with a loss that no float32 holds.
class SkippedSteps : public Trainer {
 protected:
  SkippedSteps() {
    std::vector<TokenSample> samples = random_samples(6, 4);
    TokenFileWriter all(scratch_.path() / "all.h5", 128, ""), good(scratch_.path() / "good.h5", 128, "");
    for (std::size_t s = 0; s < samples.size(); ++s) {
      if (s == 3) samples[s].loss_weights.assign(samples[s].tokens.size(), std::numeric_limits<float>::max());
      all.add(samples[s].tokens, samples[s].loss_weights, "chats.jsonl:" + std::to_string(s + 1));
      if (s != 3) good.add(samples[s].tokens, samples[s].loss_weights);
    }
    all.finish();
    good.finish();
    recipe_.data.train = {{scratch_.path() / "all.h5"}};
    recipe_.train.epochs = 1;
    recipe_.train.max_steps = std::nullopt;
    recipe_.train.lr_scheduler = LrScheduler::kConstant;
    recipe_.train.warmup_steps = 5;
  }
};

TEST_F(SkippedSteps, IsToOptimizerAndScheduleAsIfItHadNotBeen) {
  train(recipe_, false);
  const auto skipped = metrics_with(run_dir_, "skipped_steps");
  ASSERT_EQ(skipped.size(), 1u);
  EXPECT_EQ(skipped[0]["step"], 4);
  EXPECT_EQ(skipped[0]["skipped_steps"], 1);
  EXPECT_EQ(skipped[0]["samples"], (scratch_.path() / "all.h5").string() + " (chats.jsonl:4)");
  EXPECT_NE(skipped[0]["non_finite"], "");
  EXPECT_NE(progress_.text().find("step 4/6  skipped (1): "), std::string::npos) << progress_.text();
  EXPECT_EQ(metrics_with(run_dir_, "loss").size(), 5u);

  Recipe without = recipe_;
  without.data.train = {{scratch_.path() / "good.h5"}};
  without.output_dir = scratch_.path() / "without";
  train(without, false);
  EXPECT_TRUE(at::equal(adapter_values(run_dir_), adapter_values(without.output_dir)));
}

TEST_F(SkippedSteps, IsResumedOverExactly) {
  recipe_.lora.lora_dropout = 0.3;
  train(recipe_, false);
  for (const char* at : {"step 3/6  loss", "step 4/6  skipped", "step 5/6  loss"}) {
    SCOPED_TRACE(at);
    Recipe parts = recipe_;
    parts.output_dir = scratch_.path() / std::string(at, 6);
    {
      const CapturedProgress interrupted(at);
      EXPECT_THROW(train(parts, false), InterruptedError);
    }
    train(parts, true);
    EXPECT_EQ(metrics_with(parts.output_dir, "skipped_steps").size(), 1u);
    EXPECT_TRUE(at::equal(adapter_values(parts.output_dir), adapter_values(run_dir_)));
  }
}

TEST_F(SkippedSteps, EndsTheRunWhereTheBoundIsReached) {
  recipe_.train.max_skipped_steps = 1;
  recipe_.train.epochs = 3;
  const std::string source = (scratch_.path() / "all.h5").string() + " (chats.jsonl:4)";
  for (const bool resume : {false, true}) {  // the count is in the checkpoint
    try {
      train(recipe_, resume);
      ADD_FAILURE() << "skipped two steps";
    } catch (const NonFiniteError& error) {
      const std::string what = error.what();
      EXPECT_TRUE(what.starts_with("step 10: the ")) << what;
      EXPECT_NE(what.find(" is not finite; samples " + source), std::string::npos) << what;
    }
    EXPECT_EQ(metrics_with(run_dir_, "loss").size(), 8u);
    EXPECT_EQ(metrics_with(run_dir_, "skipped_steps").size(), 1u);
  }
  recipe_.train.max_skipped_steps = 3;
  train(recipe_, true);
  EXPECT_EQ(metrics_with(run_dir_, "skipped_steps").size(), 3u);
}

TEST_F(Trainer, TellsWhatAnEpochReads) {
  const fs::path more = write_tokens(scratch_.path() / "more.h5", random_samples(4, 9));
  const std::string one = recipe_.data.train.front().path.string();
  recipe_.data.train.push_back({more, 0.5});
  recipe_.data.packing = true;
  recipe_.train.max_steps = 1;
  const TokenFileReader first(one);
  const CapturedProgress progress;
  train(recipe_, false);
  const auto has = [&](const std::string& part) { return progress.text().find(part) != std::string::npos; };
  EXPECT_TRUE(has("data " + one + ": " + std::to_string(first.num_samples()) + " samples, ")) << progress.text();
  EXPECT_TRUE(has("data " + more.string() + " (weight 0.5): 4 samples, ")) << progress.text();
  EXPECT_TRUE(has("an epoch: " + std::to_string(first.num_samples() + 2) + " samples, ")) << progress.text();
  EXPECT_TRUE(has(" micro-batches, rows filled to ")) << progress.text();
}

TEST_F(Trainer, RefusesBeforeItWritesAnything) {
  const auto refuses = [&](const Recipe& recipe, const std::string& mention) {
    try {
      train(recipe, false);
      ADD_FAILURE() << "trained; expected a refusal with \"" << mention << '"';
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(mention), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(run_dir_));
  };
  Recipe wrong = recipe_;
  wrong.data.train = {{write_tokens(scratch_.path() / "other.h5", random_samples(2, 1), 129)}};
  refuses(wrong, "made with a vocabulary of 129, but");
  wrong.data.train = {{write_tokens(scratch_.path() / "empty.h5", {})}};
  refuses(wrong, "holds no sample");
  wrong.data.train = {{scratch_.path() / "absent.h5"}};
  refuses(wrong, "absent.h5");
  wrong = recipe_;
  wrong.data.sequence_length = 4;
  refuses(wrong, "data.sequence_length is 4");
  wrong = recipe_;
  wrong.data.validation = scratch_.write("text.h5", "not HDF5");
  refuses(wrong, "text.h5");
}

TEST_F(Trainer, StepWithoutLearnedTokensIsRefused) {
  std::vector<TokenSample> samples = random_samples(1, 1);
  for (float& weight : samples[0].loss_weights) weight = 0.0f;
  recipe_.data.train = {{write_tokens(scratch_.path() / "nothing.h5", samples)}};
  EXPECT_THROW(train(recipe_, false), DataError);
}

}  // namespace
}  // namespace ossature
