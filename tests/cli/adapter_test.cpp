// `ossature adapter`: what its subcommands say and write, on the small golden's adapters, and what they refuse.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

const fs::path kSmall = fs::path(OSSATURE_SOURCE_DIR) / "tests/golden/small";
const std::string kModel = kSmall / "hf", kAdapter = kSmall / "adapter-trained";  // r 2, of every projection and expert

std::vector<std::string> with_model(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "adapter");
  arguments.insert(arguments.end(), {"--model", kModel});
  return arguments;
}

nlohmann::json config_of(const std::string& adapter) {
  return nlohmann::json::parse(std::ifstream(fs::path(adapter) / "adapter_config.json"));
}

TEST(AdapterInfo, TablesAndPicture) {
  const Workspace workspace;
  const std::string picture = workspace.path("new/picture.svg");
  const std::string text = output_of(with_model({"info", kAdapter, "--picture", picture}));
  for (const char* part : {"adapter ", "relative norm", "effective rank", "experts.down_proj", "q_proj"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  const std::string svg = read_bytes(picture);
  for (const char* part : {"<svg ", "2, o_proj: ", "0, 3: ", "effective rank, experts.gate_up_proj"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;

  const auto report = json_of(with_model({"info", kAdapter}));
  ASSERT_EQ(report["weights"].size(), 18U);   // 3 layers of 4 projections and 2 expert weights
  ASSERT_EQ(report["matrices"].size(), 24U);  // 3 layers of 2 weights of 4 experts
  double squares = 0.0;
  for (const auto& row : report["weights"]) {
    EXPECT_EQ(row["r"], 2);
    EXPECT_GT(row["norm"], 0.0);
    EXPECT_GT(row["relative_norm"], 0.0);
    EXPECT_GE(row["effective_rank"], 1.0);
    EXPECT_LE(row["effective_rank"], 2.0);
    squares += std::pow(row["norm"].get<double>(), 2);
  }
  EXPECT_NEAR(report["norm"].get<double>(), std::sqrt(squares), 1e-9);
}

TEST(AdapterResizeCommand, WritesTheLowerRankAndSaysWhatItKept) {
  const Workspace workspace;
  const std::string out = workspace.path("out");
  const std::string text = output_of(with_model({"resize", kAdapter, "--rank", "1", "--out", out}));
  EXPECT_NE(text.find("kept energy share"), std::string::npos) << text;
  EXPECT_EQ(config_of(out)["r"], 1);
  EXPECT_EQ(config_of(out)["lora_alpha"], 1);
  const auto report = json_of(with_model({"resize", kAdapter, "--rank", "1", "--out", workspace.path("again")}));
  EXPECT_GT(report["kept_energy_share"], 0.3);
  EXPECT_LT(report["kept_energy_share"], 1.0);
  EXPECT_EQ(read_bytes(out + "/adapter_model.safetensors"),
            read_bytes(workspace.path("again") + "/adapter_model.safetensors"));
  // What is lost is what the difference has: energy is a square.
  const auto difference = json_of(with_model({"diff", kAdapter, out}));
  EXPECT_NEAR(std::pow(difference["relative_difference"].get<double>(), 2),
              1.0 - report["kept_energy_share"].get<double>(), 1e-5);
}

TEST(AdapterDiffCommand, OfAnAdapterWithItselfIsZero) {
  const auto report = json_of(with_model({"diff", kAdapter, kAdapter}));
  EXPECT_EQ(report["difference_norm"], 0.0);
  EXPECT_NEAR(report["cosine"].get<double>(), 1.0, 1e-12);
  ASSERT_EQ(report["weights"].size(), 18U);
}

TEST(AdapterCombineCommand, WeightsAndDifferencesAddUp) {
  const Workspace workspace;
  const std::string other = kSmall / "adapter", sum = workspace.path("sum"), difference = workspace.path("difference");
  output_of(with_model({"combine", kAdapter + "=0.5", other + "=-0.5", "--combination-type", "cat", "--out", sum}));
  EXPECT_EQ(config_of(sum)["r"], 4);
  output_of(with_model({"diff", kAdapter, other, "--out", difference}));
  output_of(
      with_model({"combine", difference + "=0.5", "--combination-type", "linear", "--out", workspace.path("half")}));
  const auto report = json_of(with_model({"diff", sum, workspace.path("half")}));
  EXPECT_GT(report["first_norm"], 0.0);
  EXPECT_LT(report["relative_difference"], 1e-6);
  const auto svd = json_of(with_model({"combine", kAdapter, other, "--svd-rank", "4", "--out", workspace.path("svd")}));
  EXPECT_NEAR(svd["kept_energy_share"].get<double>(), 1.0, 1e-12) << "2 and 2 ranks fit into 4";
}

TEST(AdapterRefuses, Arguments) {
  const Workspace workspace;
  const std::string out = workspace.path("out");
  workspace.expect_failure({"adapter"}, 2, {"subcommand"});
  workspace.expect_failure(with_model({"resize", kAdapter, "--out", out}), 2, {"--rank or --energy"});
  workspace.expect_failure(with_model({"resize", kAdapter, "--out", out, "--rank", "0"}), 2, {"--rank"});
  workspace.expect_failure(with_model({"resize", kAdapter, "--out", out, "--energy", "1.5"}), 2, {"--energy"});
  workspace.expect_failure(with_model({"diff", kAdapter}), 2, {"ADAPTERS"});
  workspace.expect_failure(with_model({"diff", kAdapter, kAdapter, "--svd-rank", "1"}), 2, {"--out"});
  workspace.expect_failure(with_model({"combine", kAdapter + "=much", "--out", out}), 2,
                           {"the weight much is not a finite number"});
  workspace.expect_failure(with_model({"combine", kAdapter, "--combination-type", "ties", "--out", out}), 2, {"ties"});
  workspace.expect_failure(
      with_model({"combine", kAdapter, "--combination-type", "cat", "--svd-rank", "2", "--out", out}), 2,
      {"--svd-rank"});
}

TEST(AdapterRefuses, Inputs) {
  const Workspace workspace;
  const std::string out = workspace.path("out"), absent = workspace.path("absent");
  workspace.expect_failure(with_model({"info", absent}), 3, {absent + "/adapter_config.json"});
  workspace.expect_failure({"adapter", "info", kAdapter}, 3,
                           {"base_model_name_or_path is not set", "give its directory with --model"});
  // The adapter of another model, and two adapters of different ones.
  workspace.expect_failure({"adapter", "info", kAdapter, "--model", kEmbedded}, 3,
                           {"is the adapter of another model?"});
  workspace.expect_failure(
      with_model({"combine", kAdapter, kSmall / "adapter-gate-up", "--combination-type", "linear", "--out", out}), 3,
      {"linear expects the same targets of all"});
}

TEST(AdapterRefuses, ToWriteWhatNobodyCanRead) {
  const Workspace workspace;
  for (const char* how : {"svd", "cat"}) {
    workspace.expect_failure(
        with_model({"combine", kAdapter + "=1e300", "--combination-type", how, "--out", workspace.path("out")}), 3,
        {"not finite"});
  }
  workspace.expect_failure(with_model({"resize", kAdapter, "--out", workspace.path("out"), "--energy", "nan"}), 2,
                           {"--energy: nan is not a number from 0 to 1"});
}

TEST(AdapterRefuses, ToReplaceAnything) {
  const Workspace workspace;
  const std::string file = workspace.write("full/file", "mine"), full = workspace.path("full");
  workspace.expect_failure(with_model({"resize", kAdapter, "--rank", "1", "--out", full}), 3,
                           {full + ": already exists"});
  workspace.expect_failure(with_model({"combine", kAdapter, "--out", full}), 3, {full + ": already exists"});
  workspace.expect_failure(with_model({"diff", kAdapter, kAdapter, "--out", full}), 3, {full + ": already exists"});
  workspace.expect_failure(with_model({"info", kAdapter, "--picture", file}), 3, {file + ": already exists"});
}

}  // namespace
}  // namespace ossature
