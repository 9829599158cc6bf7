#include "train/run/run_state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "data/token_file/crc32c.h"
#include "model/files/checkpoint_error.h"
#include "tests/malformed/scratch.h"
#include "train/failure/failure.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class RunState : public ::testing::Test {
 protected:
  /// Parameters with moments of their own, after `steps` steps.
  struct Trained {
    ParameterSet parameters;
    AdamW optimizer;

    explicit Trained(std::vector<ParameterSpec> specs = {{"a", {3, 2}, true}, {"b", {4}, false}},
                     OptimizerState state = OptimizerState::kFloat32)
        : parameters(std::move(specs), at::kCPU), optimizer(parameters, {.state = state}) {}
    void step(std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        parameters.gradients().copy_(at::arange(parameters.numel(), at::kFloat).sin() + 1.0);
        optimizer.step(0.1, 2.0);
      }
    }
  };

  [[nodiscard]] RunPosition position(std::int64_t step) const {
    RunPosition at;
    at.step = step;
    at.data = {3, 7};
    at.files = {{"0123", 5, 70, 1.0}, {"4567", 6, 80, 0.1 + 0.2}};
    at.batches_in_epoch = 11;
    at.best_validation_loss = 0.1 + 0.2;  // no short decimal
    at.evaluations_without_gain = 2;
    return at;
  }
  void save(const Trained& trained, std::int64_t step, std::int64_t keep = 3) const {
    save_run_state(run_dir_, position(step), trained.parameters, trained.optimizer, keep);
  }
  [[nodiscard]] std::set<std::string> saved() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run_dir_ / "checkpoints")) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  /// Restoring throws a CheckpointError (exit code 3) that has `mention` in it, and changes nothing.
  void expect_refused(const std::string& mention) const {
    Trained fresh;
    try {
      static_cast<void>(restore_run_state(run_dir_, fresh.parameters, fresh.optimizer));
      ADD_FAILURE() << "restored; expected a refusal with \"" << mention << '"';
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(mention), std::string::npos) << error.what();
      EXPECT_EQ(describe_failure(error).exit_code, 3);
    }
    EXPECT_EQ(fresh.parameters.values().abs().max().item<float>(), 0.0f);
    EXPECT_EQ(fresh.optimizer.steps_done(), 0);
  }

  Scratch scratch_;
  fs::path run_dir_ = scratch_.path() / "run";
};
using RunStateBroken = RunState;

class RunStateOf : public RunState, public ::testing::WithParamInterface<OptimizerState> {};
INSTANTIATE_TEST_SUITE_P(States, RunStateOf,
                         ::testing::Values(OptimizerState::kFloat32, OptimizerState::kBFloat16, OptimizerState::k8Bit));

TEST_P(RunStateOf, RoundTrip) {
  // An odd count, so that tensors of bytes cannot come before those of float32; more than one block of 256.
  const std::vector<ParameterSpec> specs = {{"a", {3, 201}, true}, {"b", {4}, false}};
  Trained trained(specs, GetParam());
  trained.step(5);
  RunPosition at = position(6);
  at.skipped_steps = 1;  // the optimizer has done five
  at.best = trained.parameters.values() * 2.0;
  at.best_step = 4;
  save_run_state(run_dir_, at, trained.parameters, trained.optimizer, 3);

  Trained restored(specs, GetParam());
  const auto found = restore_run_state(run_dir_, restored.parameters, restored.optimizer);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 6);
  EXPECT_EQ(found->data, (LoaderPosition{3, 7}));
  EXPECT_EQ(found->batches_in_epoch, 11);
  EXPECT_EQ(found->files, at.files);
  EXPECT_EQ(found->best_validation_loss, 0.1 + 0.2);
  EXPECT_EQ(found->evaluations_without_gain, 2);
  EXPECT_EQ(found->skipped_steps, 1);
  EXPECT_EQ(found->best_step, 4);
  EXPECT_TRUE(at::equal(found->best, trained.parameters.values() * 2.0));
  EXPECT_TRUE(at::equal(restored.parameters.values(), trained.parameters.values()));
  // The next step is the same only if both moments and the count of steps are.
  trained.step(1);
  restored.step(1);
  EXPECT_EQ(restored.optimizer.steps_done(), 6);
  EXPECT_TRUE(at::equal(restored.parameters.values(), trained.parameters.values()));
}

TEST_F(RunState, WithoutOneThereIsNothingToRestore) {
  Trained trained;
  EXPECT_FALSE(has_run_state(run_dir_));
  EXPECT_FALSE(restore_run_state(run_dir_, trained.parameters, trained.optimizer));
  fs::create_directories(run_dir_ / "checkpoints");
  EXPECT_FALSE(restore_run_state(run_dir_, trained.parameters, trained.optimizer));
}

TEST_F(RunState, KeepsTheNewestByNumber) {
  Trained trained;
  for (const std::int64_t step : {8, 9, 10, 11}) save(trained, step, 2);
  EXPECT_EQ(saved(), (std::set<std::string>{"step-10", "step-11"}));
  save(trained, 12, 1);
  EXPECT_EQ(saved(), (std::set<std::string>{"step-12"}));
}

TEST_F(RunState, OnlyCompleteOnesAreTaken) {
  Trained trained;
  trained.step(1);
  save(trained, 1);
  // What a program killed while it wrote leaves behind, and names that no program of ours gives.
  fs::copy(run_dir_ / "checkpoints/step-1", run_dir_ / "checkpoints/step-9.partial-123");
  for (const char* name : {"step-", "step-2x", "step-99999999999999999999999", "step-007.old", "other-5"}) {
    fs::create_directories(run_dir_ / "checkpoints" / name);
  }
  std::ofstream(run_dir_ / "checkpoints/step-8") << "a file";
  Trained restored;
  const auto found = restore_run_state(run_dir_, restored.parameters, restored.optimizer);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 1);
  EXPECT_FALSE(fs::exists(run_dir_ / "checkpoints/step-9.partial-123"));
}

TEST_F(RunState, FullDiskLeavesOlderOnes) {
  Trained trained;
  trained.step(1);
  save(trained, 1, 1);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{100, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  int exit_code = 0;
  try {
    save(trained, 2, 1);
  } catch (const std::exception& error) {
    exit_code = describe_failure(error).exit_code;
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(exit_code, 5);
  EXPECT_EQ(saved(), (std::set<std::string>{"step-1"}));
}

TEST_F(RunStateBroken, EveryTruncationOfTheTensorsIsRefused) {
  Trained trained;
  trained.step(1);
  save(trained, 1);
  const std::string bytes = read_bytes(run_dir_ / "checkpoints/step-1/state.safetensors");
  ASSERT_GT(bytes.size(), 100u);
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    scratch_.write("run/checkpoints/step-1/state.safetensors", bytes.substr(0, size));
    expect_refused("state.safetensors");
  }
  fs::remove(run_dir_ / "checkpoints/step-1/state.safetensors");
  expect_refused("state.safetensors");
}

TEST_F(RunStateBroken, EveryTruncationOfThePositionIsRefused) {
  Trained trained;
  save(trained, 1);
  const std::string bytes = read_bytes(run_dir_ / "checkpoints/step-1/position.json");
  for (std::size_t size = 0; size + 2 < bytes.size(); ++size) {  // without the last newline it is still whole
    scratch_.write("run/checkpoints/step-1/position.json", bytes.substr(0, size));
    expect_refused("position.json: is missing or damaged; expected ");
  }
  fs::remove(run_dir_ / "checkpoints/step-1/position.json");
  expect_refused("position.json: is missing or damaged; expected ");
}

TEST_F(RunStateBroken, AbsurdPositionsAreRefused) {
  Trained trained;
  save(trained, 1);
  const json good = json::parse(read_bytes(run_dir_ / "checkpoints/step-1/position.json"));
  const auto with = [&](const char* key, const json& value) {
    json changed = good;
    if (value.is_discarded()) {
      changed.erase(key);
    } else {
      changed[key] = value;
    }
    if (std::string(key) != "crc32c") {  // wrong, but as it would have been written
      changed.erase("crc32c");
      const std::string text = changed.dump();
      changed["crc32c"] = crc32c(text.data(), text.size());
    }
    return changed.dump();
  };
  for (const auto& [key, value] : good.items()) {
    for (const json& wrong : {json(json::value_t::discarded), json(nullptr), json("1"), json::array({1})}) {
      scratch_.write("run/checkpoints/step-1/position.json", with(key.c_str(), wrong));
      expect_refused("position.json: is missing or damaged");
    }
    if (!value.is_number_integer()) continue;
    for (const json& wrong : {json(-1), json(1.5), json(1e300), json(18446744073709551615u)}) {
      scratch_.write("run/checkpoints/step-1/position.json", with(key.c_str(), wrong));
      expect_refused("position.json: is missing or damaged");
    }
  }
  scratch_.write("run/checkpoints/step-1/position.json", with("step", 2));  // another folder's
  expect_refused("position.json: is missing or damaged");
  scratch_.write("run/checkpoints/step-1/position.json", with("batch", 12));  // of 11 in an epoch
  expect_refused("position.json: is missing or damaged");
}

TEST_F(RunStateBroken, StateOfOtherParametersIsRefused) {
  for (const std::vector<ParameterSpec>& specs : std::vector<std::vector<ParameterSpec>>{
           {{"a", {2, 3}, true}, {"b", {4}, false}}, {{"a", {3, 2}, true}, {"c", {4}, false}}, {{"a", {3, 2}, true}}}) {
    fs::remove_all(run_dir_);
    save(Trained(specs), 1);
    expect_refused("is of other parameters than the recipe now asks for");
  }
}

TEST_F(RunStateBroken, MomentsOfAnotherDtypeAreRefused) {
  const std::vector<ParameterSpec> specs = {{"a", {3, 2}, true}, {"b", {4}, false}};
  for (const auto& [state, name] : std::vector<std::pair<OptimizerState, std::string>>{
           {OptimizerState::kBFloat16, "BF16"}, {OptimizerState::k8Bit, "U8"}}) {
    save(Trained(specs, state), 1);
    expect_refused("step-1: the moments are " + name +
                   ", the recipe's are F32; resume with the train.optimizer_state that began the run");
  }
}

TEST_F(RunStateBroken, ValuesThatAreNotFiniteAreRefused) {
  Trained trained;
  trained.parameters.values()[3] = std::numeric_limits<float>::quiet_NaN();
  save(trained, 1);
  expect_refused("parameters holds a value that is not finite");
}

TEST_F(RunStateBroken, ADamagedNewestIsNotPassedOverInSilence) {
  Trained trained;
  save(trained, 1);
  save(trained, 2);
  scratch_.write("run/checkpoints/step-2/state.safetensors", "x");
  std::vector<std::string> heard;
  const auto found = restore_run_state(run_dir_, trained.parameters, trained.optimizer,
                                       [&](const std::string& damage) { heard.push_back(damage); });
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 1);
  ASSERT_EQ(heard.size(), 1U);
  EXPECT_NE(heard.front().find("step-2/state.safetensors"), std::string::npos) << heard.front();
}

TEST_F(RunStateBroken, EveryFlippedBitIsNoticed) {
  Trained trained;
  trained.step(1);
  save(trained, 1);
  for (const std::string name : {"state.safetensors", "position.json"}) {
    const std::string file = "run/checkpoints/step-1/" + name, good = read_bytes(scratch_.path() / file);
    const std::size_t stride = name == "position.json" ? 1 : 3;
    for (std::size_t i = 0; i < good.size(); i += stride) {
      std::string flipped = good;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << i % 8));
      scratch_.write(file, flipped);
      Trained fresh;
      try {
        const auto found = restore_run_state(run_dir_, fresh.parameters, fresh.optimizer);
        // What is left are changes of white space, and of what the file says of itself.
        EXPECT_TRUE(found && at::equal(fresh.parameters.values(), trained.parameters.values())) << name << " " << i;
        EXPECT_EQ(found->step, 1);
      } catch (const CheckpointError&) {
      }
    }
    scratch_.write(file, good);
  }
}

}  // namespace
}  // namespace ossature
