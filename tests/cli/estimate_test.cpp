// `ossature estimate` tells what a run then needs, and `train` refuses what it says does not fit.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

const std::string kRecipe = std::string(OSSATURE_SOURCE_DIR) + "/recipes/embedded/quickstart.yaml";

std::vector<std::string> with_run(const Workspace& workspace, const std::string& command, int steps = 3) {
  return {command,
          kRecipe,
          "base_model=" + kEmbedded.string(),
          "output_dir=" + workspace.path("run"),
          "data.train=" + workspace.path("tokens.h5"),
          "data.validation=null",
          "train.epochs=100",
          "train.max_steps=" + std::to_string(steps),
          "train.warmup_steps=0"};
}

/// peak_rss_bytes of each step.
std::vector<double> peaks(const Workspace& workspace) {
  std::vector<double> found;
  for (const auto& line : lines_of(workspace.path("run") + "/metrics.jsonl"))
    found.push_back(line.value("peak_rss_bytes", 0.0));
  return found;
}

TEST(EstimateCommand, IsEnoughForTheRun) {
  const Workspace workspace;
  (void)workspace.tokens(40);
  const auto report = json_of(with_run(workspace, "estimate"));
  EXPECT_EQ(report["fits"], true);
  EXPECT_GT(report["hours"].get<double>(), 0.0);
  output_of(with_run(workspace, "train"));
  const std::vector<double> found = peaks(workspace);
  ASSERT_EQ(report["steps"], found.size());
  // On a model this small what is set aside for the program itself is most of it.
  EXPECT_GE(report["memory_bytes"].get<double>(), found.back());
  EXPECT_LE(report["memory_bytes"].get<double>(), found.back() + 450e6);
}

/// Rows and the tokens of each expert are others in every step, which frays a heap: without one for tensors alone the
/// program grew by 40 % in as many steps, and did not stop.
TEST(EstimateCommand, HoldsAfterManyStepsOfVariedLengths) {
  const Workspace workspace;
  (void)workspace.tokens(120);
  const auto report = json_of(with_run(workspace, "estimate", 60));
  output_of(with_run(workspace, "train", 60));
  const std::vector<double> found = peaks(workspace);
  ASSERT_EQ(found.size(), 60U);
  EXPECT_LE(found.back(), 1.1 * report["memory_bytes"].get<double>());
}

TEST(EstimateCommand, TextSaysTheSameAndNothingIsWritten) {
  const Workspace workspace;
  (void)workspace.tokens(5);
  const auto before = workspace.contents();
  auto arguments = with_run(workspace, "estimate");
  arguments.push_back("--no-probe");
  const std::string text = output_of(arguments);
  EXPECT_NE(text.find("weights, mapped"), std::string::npos) << text;
  EXPECT_EQ(text.find("hours"), std::string::npos) << text;
  EXPECT_EQ(workspace.contents(), before);
}

TEST(EstimateCommand, SeveralRanksOnANetwork) {
  const Workspace workspace;
  (void)workspace.tokens(40);
  auto arguments = with_run(workspace, "estimate");
  arguments.insert(arguments.end(),
                   {"--no-probe", "--micro-batch-seconds", "2", "train.gradient_accumulation_steps=8"});
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), arguments.begin(), arguments.end());
    return json_of(more);
  };
  const auto fast = with({"--ranks", "4", "--network", "10Gbit"}), slow = with({"--ranks", "4", "--network", "1Mbit"});
  EXPECT_EQ(fast["ranks"], 4);
  EXPECT_NEAR(fast["step_seconds"].get<double>(), 4.0, 0.2);
  EXPECT_GT(fast["computing_share"].get<double>(), 0.95);
  // A link of 125 KB/s carries each of the 4 bytes of a gradient one and a half times; a micro-batch may hide a part.
  const double sums = 1.5 * 4 * slow["trained_parameters"].get<double>() / 125e3,
               waiting = slow["network_share"].get<double>() * slow["step_seconds"].get<double>();
  EXPECT_GT(waiting, sums - 2.0);
  EXPECT_LT(waiting, sums);
  EXPECT_NEAR(fast["hours"].get<double>() * 3600, fast["steps"].get<double>() * fast["step_seconds"].get<double>(),
              1e-6);
  arguments.insert(arguments.end(), {"--ranks", "3", "--network", "fast"});
  workspace.expect_failure(arguments, 2, {"--network", "expected a rate such as 1Gbit"});
  arguments.back() = "1Gbit";
  arguments.push_back("train.pipeline_stages=2");
  workspace.expect_failure(arguments, 2, {"2 stages, but the launcher started 3 ranks"});
}

TEST(EstimateRefuses, WhatTrainRefuses) {
  const Workspace workspace;
  (void)workspace.tokens(5);
  auto arguments = with_run(workspace, "train");
  arguments.insert(arguments.end(),
                   {"train.memory_limit=0.5", "train.micro_batch_size=8", "data.sequence_length=2048"});
  workspace.expect_failure(arguments, 5, {"the run does not fit into memory", "train.micro_batch_size="});
  arguments.front() = "estimate";
  const auto report = json_of(arguments);
  EXPECT_EQ(report["fits"], false);
  EXPECT_FALSE(report["ways_out"].empty());
  workspace.expect_failure({"estimate", workspace.path("absent.yaml")}, 2, {"absent.yaml"});
  arguments.push_back("base_model=" + workspace.path("absent"));
  workspace.expect_failure(arguments, 3, {workspace.path("absent") + ": not a directory"});
}

}  // namespace
}  // namespace ossature
