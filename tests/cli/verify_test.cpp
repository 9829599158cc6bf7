// `ossature verify`, and export's own: what an export kept, told against `eval`, and exports that are not what they
// should be.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

/// The embedded model and an adapter that its first steps on attention and experts made.
struct Adapted {
  Adapted() {
    const std::string recipe = workspace.write(
        "recipe.yaml", "base_model: " + kEmbedded.string() + "\noutput_dir: " + workspace.path("run") +
                           "\ndata: {train: " + data + ", validation: " + data +
                           ", sequence_length: 512}\nlora: {r: 4}\ntrain: {epochs: 2, learning_rate: 5.0e-3, "
                           "warmup_steps: 0}\n");
    EXPECT_EQ(output_of({"train", recipe}), "");
  }
  void exported(const std::string& name, Arguments options) const {
    Arguments arguments = {"export",     "--model", kEmbedded, "--adapter", adapter, "--out", workspace.path(name),
                           "--no-verify"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    output_of(arguments);
  }
  [[nodiscard]] Arguments verify(const std::string& name) const {
    return {"verify", "--exported", workspace.path(name), "--model", kEmbedded, "--adapter", adapter, "--data", data};
  }
  [[nodiscard]] double loss(const Arguments& model) const {
    Arguments arguments = {"eval", "--data", data, "--dtype", "float32", "--model"};
    arguments.insert(arguments.end(), model.begin(), model.end());
    return json_of(arguments)["loss"].get<double>();
  }

  Workspace workspace;
  std::string data = workspace.tokens(6), adapter = workspace.path("run/adapter");
};

TEST(VerifyCommand, FiguresAreThoseOfEval) {
  const Adapted run;
  run.exported("exported", {"--experts", "bf16"});
  Arguments arguments = run.verify("exported");
  arguments.insert(arguments.end(), {"--dtype", "float32", "--by-layer"});
  const auto report = json_of(arguments);
  const double base = run.loss({kEmbedded}), adapted = run.loss({kEmbedded, "--adapter", run.adapter}),
               merged = run.loss({run.workspace.path("exported")});
  EXPECT_NEAR(report["loss_base"].get<double>(), base, 1e-4);
  EXPECT_NEAR(report["loss_adapter"].get<double>(), adapted, 1e-4);
  EXPECT_NEAR(report["loss_export"].get<double>(), merged, 1e-4);
  EXPECT_NEAR(report["retention"].get<double>(), (base - merged) / (base - adapted), 1e-3);
  EXPECT_GT(report["retention"].get<double>(), 0.99);
  EXPECT_LT(report["kl_adapter_export"].get<double>(), 0.01 * report["kl_adapter_base"].get<double>());
  EXPECT_GT(report["top1_agreement"].get<double>(), 0.97);
  EXPECT_EQ(report["passed"], true);
  EXPECT_GT(report["tensors_merged"].get<int>(), 0);
  EXPECT_EQ(report["tensors_lost_to_rounding"], 0);
  EXPECT_TRUE(report["tensors_changed_otherwise"].empty());
  for (const auto& layer : report["layers"]) EXPECT_NEAR(layer["gain"].get<double>(), 1.0, 0.05);
}

// Its loss is lower than that of the adapter which it is said to have.
TEST(VerifyCommand, FailsForAnExportOfTheAdapterWithAnotherWeight) {
  const Adapted run;
  run.exported("exported", {"--experts", "bf16"});
  Arguments arguments = run.verify("exported");
  arguments[6] += "=0.3";
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.exit_code, 3) << result.out;
  EXPECT_NE(result.err.find("of what it changed in the predictions (KL divergence); expected at least 50 %"),
            std::string::npos)
      << result.err;
}

TEST(VerifyCommand, FailsForAnExportThatLostTheAdapter) {
  const Adapted run;
  output_of({"export", "--model", kEmbedded, "--out", run.workspace.path("base")});
  const ProgramResult result = run_program(run.verify("base"));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_NE(result.err.find("keeps 0.0 % of the loss that the adapter gained"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("--rounding calibrated"), std::string::npos) << result.err;
  EXPECT_NE(result.out.find("retention"), std::string::npos) << result.out;
  Arguments lenient = run.verify("base");
  lenient.insert(lenient.end(), {"--min-retention", "0"});
  EXPECT_EQ(run_program(lenient).exit_code, 0);
}

TEST(VerifyCommand, WithoutAnAdapterTheExportPredictsWhatTheBaseDoes) {
  const Adapted run;
  output_of({"export", "--model", kEmbedded, "--format", "openai", "--out", run.workspace.path("openai")});
  const auto report =
      json_of({"verify", "--exported", run.workspace.path("openai"), "--model", kEmbedded, "--data", run.data});
  EXPECT_EQ(report["kl_adapter_export"], 0.0);
  EXPECT_EQ(report["top1_agreement"], 1.0);
  EXPECT_EQ(report["tensors_merged"], 0);
  EXPECT_EQ(report["passed"], true);
  run.exported("merged", {"--experts", "bf16"});
  const ProgramResult other =
      run_program({"verify", "--exported", run.workspace.path("merged"), "--model", kEmbedded, "--data", run.data});
  EXPECT_EQ(other.exit_code, 3);
  EXPECT_NE(other.err.find("predicts otherwise than the base"), std::string::npos) << other.err;
}

TEST(VerifyCommand, ExportVerifiesOnTheRunsOwnValidationData) {
  const Adapted run;
  const ProgramResult result = run_program({"export", "--model", kEmbedded, "--adapter", run.adapter, "--experts",
                                            "mixed", "--out", run.workspace.path("mixed")});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("retention"), std::string::npos) << result.out;
  const std::string card = read_bytes(run.workspace.path("mixed") + "/README.md");
  for (const char* part : {"those of layers 0, 1, 2, 3 in bfloat16", "held-out tokens of tokens.h5",
                           "| loss of the base |", "| retention of what was learned |"})
    EXPECT_NE(card.find(part), std::string::npos) << part << " in\n" << card;
  // Rounding to nearest loses most of so small an adapter: the export is there, and the exit code says what it is.
  const ProgramResult poor = run_program({"export", "--model", kEmbedded, "--adapter", run.adapter, "--min-retention",
                                          "0.999", "--out", run.workspace.path("poor")});
  EXPECT_EQ(poor.exit_code, 3) << poor.out;
  EXPECT_NE(poor.err.find("expected at least 99.9 %"), std::string::npos) << poor.err;
  EXPECT_TRUE(fs::exists(run.workspace.path("poor") + "/config.json"));
}

TEST(VerifyRefuses, Inputs) {
  const Adapted run;
  const Workspace& workspace = run.workspace;
  run.exported("exported", {});
  const std::string small = workspace.small_model();
  Arguments other = run.verify("exported");
  other[4] = small;
  other.erase(other.begin() + 5, other.begin() + 7);
  workspace.expect_failure(other, 3, {"config.json tells of another model"});
  Arguments absent = run.verify("absent");
  workspace.expect_failure(absent, 3, {workspace.path("absent") + ": not a directory"});
  Arguments bad_weight = run.verify("exported");
  bad_weight[6] += "=heavy";
  workspace.expect_failure(bad_weight, 2, {"the weight heavy is not a finite number"});
  output_of({"prepare", workspace.conversations(2), "--tokenizer", kEmbedded, "--learn",
             "final=0,analysis=0,commentary=0,tool_calls=0", "--out", workspace.path("unlearned.h5")});
  Arguments unlearned = run.verify("exported");
  unlearned[8] = workspace.path("unlearned.h5");
  workspace.expect_failure(unlearned, 3, {"no token is learned"});
}

}  // namespace
}  // namespace ossature
