// Several ranks under mpirun learn what one does, end together, and go on as others.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/cli/spoiled_model.h"
#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

/// Float32 sums in another order: of the loss, in relation to it, and of a trained value, in relation to the largest.
constexpr double kLossNoise = 1e-7;
constexpr double kValueNoise = 1e-5;

/// Lines of metrics.jsonl that have `key`.
std::vector<json> metrics_with(const fs::path& run_dir, const std::string& key) {
  std::vector<json> found = lines_of(run_dir / "metrics.jsonl");
  std::erase_if(found, [&](const json& line) { return !line.contains(key); });
  return found;
}

std::vector<float> adapter_of(const fs::path& run_dir) {
  const std::string bytes = read_bytes(run_dir / "adapter/adapter_model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  std::vector<float> values((bytes.size() - sizeof length - length) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + sizeof length + length, values.size() * sizeof(float));
  return values;
}

/// Processes that a launcher started with `mark` in their environment.
std::vector<pid_t> ranks_with(const std::string& mark) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "environ");
    const std::string environment((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (environment.find(mark) != std::string::npos && environment.find("OMPI_COMM_WORLD_RANK=") != std::string::npos)
      found.push_back(std::stoi(name));
  }
  return found;
}

/// Seconds from `since` until no process has `mark`: a rank that the launcher has killed, or what it had started to
/// read token files, may end a moment after the launcher has.
double seconds_until_gone(const std::string& mark, Clock::time_point since) {
  constexpr double kMost = 60.0;
  double seconds = 0.0;
  do {
    const bool is_gone = ranks_with(mark).empty();
    seconds = std::chrono::duration<double>(Clock::now() - since).count();
    if (is_gone) return seconds;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  } while (seconds < kMost);
  return kMost;
}

class RanksUnderMpi : public testing::Test {
 protected:
  void SetUp() override {
    auto config = nlohmann::json::parse(std::ifstream(workspace_.small_config()));
    config["num_hidden_layers"] = 4;
    config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
    const std::string model = workspace_.path("model"), tokens = workspace_.tokens(30);
    output_of({"init", workspace_.write("four.json", config.dump()), "--tokenizer", kEmbedded, "--out", model});
    recipe_ = workspace_.write(
        "recipe.yaml", "base_model: " + model + "\noutput_dir: " + workspace_.path("one") +
                           "\ndata: {train: " + tokens + ", validation: " + tokens +
                           ", sequence_length: 128}\n"
                           "dtype: float32\nlora: {r: 4, lora_dropout: 0.1}\n"
                           "train: {gradient_accumulation_steps: 4, epochs: 100, learning_rate: 1.0e-3, warmup_steps: "
                           "5, seed: 3, threads: 1, max_steps: 50}\n"
                           "evaluation: {every_steps: 20}\ncheckpoint: {every_steps: 2, keep: 2}\n");
  }

  [[nodiscard]] static std::vector<std::string> mpirun(int ranks) {
    return {"mpirun", "--allow-run-as-root", "--oversubscribe", "-n", std::to_string(ranks)};
  }
  [[nodiscard]] ProgramResult run(int ranks, const std::string& dir, std::vector<std::string> arguments = {},
                                  ProgramOptions options = {}) const {
    options.launcher = mpirun(ranks);
    arguments.insert(arguments.begin(), {"train", recipe_, "output_dir=" + workspace_.path(dir)});
    return run_program(arguments, options);
  }

  /// Both runs did the same steps on the same tokens and came to the same, but for noise.
  void expect_same(const std::string& a, const std::string& b) const {
    const std::vector<json> of_a = metrics_with(workspace_.path(a), "loss"),
                            of_b = metrics_with(workspace_.path(b), "loss");
    ASSERT_EQ(of_a.size(), of_b.size());
    double largest = 0.0;
    for (std::size_t i = 0; i < of_a.size(); ++i) {
      for (const char* key : {"step", "learning_rate", "tokens", "learned_tokens", "channel_tokens"})
        EXPECT_EQ(of_a[i].at(key), of_b[i].at(key)) << key << " after " << i << " steps";
      const double loss = of_a[i].at("loss"), other = of_b[i].at("loss");
      largest = std::max(largest, std::abs(loss - other) / loss);
    }
    EXPECT_LE(largest, kLossNoise);
    EXPECT_EQ(of_a.front().at("expert_tokens"), of_b.front().at("expert_tokens"));
    const std::vector<json> validations = metrics_with(workspace_.path(a), "validation_loss"),
                            others = metrics_with(workspace_.path(b), "validation_loss");
    ASSERT_EQ(validations.size(), others.size());
    for (std::size_t i = 0; i < validations.size(); ++i) {
      EXPECT_EQ(validations[i].at("learned_tokens"), others[i].at("learned_tokens"));
      EXPECT_NEAR(validations[i].at("validation_loss").get<double>(), others[i].at("validation_loss").get<double>(),
                  kLossNoise * validations[i].at("validation_loss").get<double>());
    }
    const std::vector<float> values = adapter_of(workspace_.path(a)), other_values = adapter_of(workspace_.path(b));
    ASSERT_EQ(values.size(), other_values.size());
    float difference = 0.0F, size = 0.0F;
    for (std::size_t i = 0; i < values.size(); ++i) {
      difference = std::max(difference, std::abs(values[i] - other_values[i]));
      size = std::max(size, std::abs(values[i]));
    }
    EXPECT_LE(difference, kValueNoise * size);
    std::cout << a << " and " << b << ": losses within " << largest << " of them, values within " << difference / size
              << " of the largest\n";
  }

  Workspace workspace_;
  std::string recipe_;
};

TEST_F(RanksUnderMpi, TwoAndFourLearnWhatOneDoesAndTwiceTheSameBits) {
  output_of({"train", recipe_});
  for (const int ranks : {2, 4}) {
    const std::string dir = std::to_string(ranks), again = dir + " again";
    const ProgramResult result = run(ranks, dir);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.err.find("in each of " + dir + " ranks"), std::string::npos) << result.err;
    expect_same("one", dir);
    for (const json& line : metrics_with(workspace_.path(dir), "loss")) {
      EXPECT_EQ(line.at("ranks").at("ranks"), ranks);
      EXPECT_LE(line.at("ranks").at("fastest_seconds"), line.at("ranks").at("slowest_seconds"));
    }
    ASSERT_EQ(run(ranks, again).exit_code, 0);
    EXPECT_TRUE(read_bytes(workspace_.path(dir + "/adapter/adapter_model.safetensors")) ==
                read_bytes(workspace_.path(again + "/adapter/adapter_model.safetensors")));
  }
}

TEST_F(RanksUnderMpi, StagesOfAPipelineLearnWhatOneDoes) {
  output_of({"train", recipe_});
  for (const auto& [ranks, stages] : {std::pair{2, 2}, std::pair{4, 4}, std::pair{4, 2}}) {
    const std::string dir = std::to_string(stages) + " stages of " + std::to_string(ranks);
    const ProgramResult result = run(ranks, dir, {"train.pipeline_stages=" + std::to_string(stages)});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    expect_same("one", dir);
  }
}

TEST_F(RanksUnderMpi, StepsThatDoNotDivideAmongTheRanksAndAnUnevenEnd) {
  // 16 rows of an epoch and 7 micro-batches of a step: the last step of 1.5 epochs has fewer than there are ranks.
  const std::vector<std::string> changes = {"train.gradient_accumulation_steps=7", "train.max_steps=null",
                                            "train.epochs=1.5", "data.packing=false"};
  std::vector<std::string> arguments = {"train", recipe_};
  arguments.insert(arguments.end(), changes.begin(), changes.end());
  output_of(arguments);
  ASSERT_EQ(run(3, "three", changes).exit_code, 0);
  expect_same("one", "three");
}

TEST_F(RanksUnderMpi, GoOnAsOtherRanksInTheSameOrder) {
  output_of({"train", recipe_});
  for (const int ranks : {3, 1, 2}) {
    ProgramOptions options;
    options.interrupt_after = "step " + std::to_string(60 - 10 * ranks) + "/";
    options.signal = SIGKILL;  // of the launcher, which takes the ranks with it
    const auto end = ranks == 2 ? ProgramOptions{} : options;
    const ProgramResult result = run(ranks, "others", {"--resume"}, end);
    EXPECT_EQ(result.exit_code == 0, ranks == 2) << result.err;
  }
  expect_same("one", "others");
}

TEST_F(RanksUnderMpi, ARankThatIsKilledEndsAllAndOthersGoOn) {
  output_of({"train", recipe_});
  const auto seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  double longest = 0.0;
  for (int kills = 0; kills < 10;) {
    const int ranks = 2 + static_cast<int>(random() % 3);
    const std::string mark = "OSSATURE_RANKS_TEST=" + std::to_string(::getpid()) + "." + std::to_string(kills) + ".";
    ProgramOptions options;
    options.launcher = mpirun(ranks);
    options.launcher.insert(options.launcher.end(), {"-x", mark});
    const auto at = Clock::now() + std::chrono::milliseconds(200 + random() % 3000);
    Clock::time_point killed_at{};
    options.interrupt_when = [&] {
      if (killed_at != Clock::time_point{} || Clock::now() < at) return false;
      const std::vector<pid_t> found = ranks_with(mark);
      if (found.empty()) return false;
      ::kill(found[random() % found.size()], SIGKILL);
      killed_at = Clock::now();
      return false;
    };
    const ProgramResult result =
        run_program({"train", recipe_, "output_dir=" + workspace_.path("killed"), "--resume"}, options);
    if (killed_at == Clock::time_point{} || result.exit_code == 0) {  // the run was done before
      ASSERT_EQ(result.exit_code, 0) << result.err;
      expect_same("one", "killed");
      fs::remove_all(workspace_.path("killed"));
      if (HasFailure()) return;
      continue;
    }
    ++kills;
    const double seconds = seconds_until_gone(mark, killed_at);
    EXPECT_LT(seconds, 10.0);
    longest = std::max(longest, seconds);
  }
  std::cout << "all ranks gone within " << longest << " s of each kill\n";
  ASSERT_EQ(run(2, "killed", {"--resume"}).exit_code, 0);
  expect_same("one", "killed");
}

TEST_F(RanksUnderMpi, ARankThatFallsSilentEndsAll) {
  const std::string mark = "OSSATURE_RANKS_TEST=" + std::to_string(::getpid()) + ".silent.";
  ProgramOptions options;
  options.launcher = mpirun(3);
  options.launcher.insert(options.launcher.end(), {"-x", mark, "-x", "OSSATURE_LOST_AFTER=3"});
  const std::string run_dir = workspace_.path("silent");
  Clock::time_point stopped_at{};
  options.interrupt_when = [&] {
    if (stopped_at != Clock::time_point{} || !fs::exists(run_dir + "/checkpoints/step-4")) return false;
    const std::vector<pid_t> found = ranks_with(mark);
    if (found.size() == 3) {
      ::kill(found[1], SIGSTOP);
      stopped_at = Clock::now();
    }
    return false;
  };
  const ProgramResult result = run_program({"train", recipe_, "output_dir=" + run_dir}, options);
  EXPECT_EQ(result.exit_code, 6) << result.err;
  EXPECT_NE(result.err.find(" has not been heard of for 3 s; all ranks end"), std::string::npos) << result.err;
  EXPECT_LT(seconds_until_gone(mark, stopped_at), 13.0);
}

TEST_F(RanksUnderMpi, ASignalToOneRankLetsAllSaveAndEnd) {
  output_of({"train", recipe_});
  const std::string mark = "OSSATURE_RANKS_TEST=" + std::to_string(::getpid()) + ".signal.";
  ProgramOptions options;
  options.launcher = mpirun(2);
  options.launcher.insert(options.launcher.end(), {"-x", mark});
  const std::string run_dir = workspace_.path("stopped");
  bool is_sent = false;
  options.interrupt_when = [&] {
    if (is_sent || !fs::exists(run_dir + "/checkpoints/step-4")) return false;
    const std::vector<pid_t> found = ranks_with(mark);
    is_sent = !found.empty();
    if (is_sent) ::kill(found.back(), SIGTERM);
    return false;
  };
  const ProgramResult result = run_program({"train", recipe_, "output_dir=" + run_dir}, options);
  EXPECT_TRUE(is_sent);
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_NE(result.err.find("ossature: error: interrupted after step "), std::string::npos) << result.err;
  ASSERT_EQ(run(2, "stopped", {"--resume"}).exit_code, 0);
  expect_same("one", "stopped");
}

/// The first rank alone replies, and the others wait for it.
TEST_F(RanksUnderMpi, ASignalInASampleReplyIsNotPutOff) {
  std::vector<std::string> arguments = {"train",
                                        recipe_,
                                        "train.max_steps=6",
                                        "evaluation.every_steps=3",
                                        "evaluation.sample_prompts=[Hello, Count, Tell]",
                                        "evaluation.sample_tokens=200",
                                        "output_dir=" + workspace_.path("one")};
  output_of(arguments);
  arguments.back() = "output_dir=" + workspace_.path("stopped");
  const std::string mark = "OSSATURE_RANKS_TEST=" + std::to_string(::getpid()) + ".reply.";
  ProgramOptions options;
  options.launcher = mpirun(2);
  options.launcher.insert(options.launcher.end(), {"-x", mark});
  const std::string samples = workspace_.path("stopped") + "/samples.jsonl";
  bool is_sent = false;
  options.interrupt_when = [&] {
    if (is_sent || !fs::exists(samples) || lines_of(samples).size() < 4) return false;  // the first after step 3
    is_sent = true;
    for (const pid_t rank : ranks_with(mark)) ::kill(rank, SIGTERM);
    return false;
  };
  const ProgramResult result = run_program(arguments, options);
  EXPECT_TRUE(is_sent);
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_NE(result.err.find("ossature: error: interrupted after step 3"), std::string::npos) << result.err;
  EXPECT_TRUE(json::parse(read_bytes(workspace_.path("stopped") + "/checkpoints/step-3/position.json"))
                  .at("evaluation_due")
                  .get<bool>());
  options = {};
  options.launcher = mpirun(2);
  arguments.push_back("--resume");
  const ProgramResult resumed = run_program(arguments, options);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  expect_same("one", "stopped");
  EXPECT_EQ(lines_of(samples).size(), 9U);
}

TEST_F(RanksUnderMpi, WhatIsNotFiniteIsFoundWhereverItIs) {
  const std::string bad = workspace_.path("bad"), tokens = workspace_.path("tokens.h5");
  fs::copy(workspace_.path("model"), bad);
  const std::int32_t token = token_of_one_sample(tokens, 5);
  ASSERT_GE(token, 0);
  spoil_embedding(bad, token);
  // A sample a micro-batch and in order: the sixth is the one with that token, the second rank's third.
  const std::vector<std::string> changes = {"base_model=" + bad,         "data.packing=false",
                                            "data.shuffle=false",        "data.validation=null",
                                            "train.max_skipped_steps=0", "data.sequence_length=512"};
  std::vector<std::string> arguments = {"train", recipe_};
  arguments.insert(arguments.end(), changes.begin(), changes.end());
  const std::string alone = run_program(arguments).err;
  const auto error_in = [](const std::string& text) {
    const std::size_t begin = std::min(text.find("ossature: error: "), text.size());
    return text.substr(begin, text.find(". Nothing was updated", begin) - begin);
  };
  ASSERT_NE(error_in(alone).find("the embedding of the tokens is not finite"), std::string::npos) << alone;
  for (const auto& [ranks, stages] : {std::pair{2, 1}, std::pair{2, 2}}) {
    std::vector<std::string> more = changes;
    more.push_back("train.pipeline_stages=" + std::to_string(stages));
    const ProgramResult result = run(ranks, "stages " + std::to_string(stages), more);
    EXPECT_EQ(result.exit_code, 4) << result.err;
    EXPECT_EQ(error_in(result.err), error_in(alone)) << result.err;
  }
}

TEST_F(RanksUnderMpi, WhatIsWrongIsSaidOnce) {
  const auto expect_error = [](const ProgramResult& result, int exit_code, const std::string& mention) {
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    const std::size_t error = result.err.find("ossature: error: ");
    ASSERT_NE(error, std::string::npos) << result.err;
    EXPECT_EQ(result.err.find("ossature: error: ", error + 1), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(mention, error), std::string::npos) << result.err;
  };
  expect_error(run(2, "wrong", {"train.learning_rat=1"}), 2, "train.learning_rate");
  expect_error(run(3, "wrong", {"train.gradient_accumulation_steps=2"}), 2, "2 micro-batches for 3 ranks");
  expect_error(run(3, "wrong", {"train.pipeline_stages=2"}), 2, "2 stages, but the launcher started 3 ranks");
  expect_error(run(5, "wrong", {"train.pipeline_stages=5"}), 2, "no more than the 4 layers");
  expect_error(run(2, "wrong", {"data.train=absent.h5"}), 3, "absent.h5");
  EXPECT_FALSE(fs::exists(workspace_.path("wrong")));

  const std::vector<std::string> own = {OSSATURE_PROGRAM, "train", recipe_, "output_dir=" + workspace_.path("wrong")};
  for (const auto& [change, exit_code, mention] :
       {std::tuple<std::string, int, std::string>{"train.seed=4", 2, "train.seed: 4 here, 3 on rank 0"},
        {"base_model=" + kEmbedded.string(), 2, "the base model: "},
        {"data.train=absent.h5", 3, "rank 1 on "}}) {
    ProgramOptions options;  // of the second rank alone
    options.launcher = mpirun(1);
    options.launcher.insert(options.launcher.end(), own.begin(), own.end());
    options.launcher.insert(options.launcher.end(), {":", "-n", "1"});
    expect_error(run_program({"train", recipe_, "output_dir=" + workspace_.path("wrong"), change}, options), exit_code,
                 mention);
    EXPECT_FALSE(fs::exists(workspace_.path("wrong")));
  }
}

}  // namespace
}  // namespace ossature
