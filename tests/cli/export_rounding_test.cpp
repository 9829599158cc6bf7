// `ossature export --rounding` and `--recover`: what is kept of an adapter on experts, interruptions, and what is
// refused.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

/// The embedded model and an adapter on experts alone, after a few small steps.
class AdaptedExperts {
 public:
  AdaptedExperts() {
    const std::string recipe = workspace.write(
        "experts.yaml", "base_model: " + kEmbedded.string() + "\noutput_dir: " + workspace.path("run") +
                            "\ndata: {train: " + data + ", sequence_length: 512}\nlora: {r: 4, target_modules: [], " +
                            "target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj]}\n" +
                            "train: {epochs: 4, learning_rate: 1.0e-3, warmup_steps: 0}\n");
    EXPECT_EQ(output_of({"train", recipe}), "");
  }
  [[nodiscard]] std::vector<std::string> arguments(const std::string& out,
                                                   const std::vector<std::string>& options = {}) const {
    std::vector<std::string> all = {"export", "--model", kEmbedded,           "--adapter",
                                    adapter,  "--out",   workspace.path(out), "--no-verify"};
    all.insert(all.end(), options.begin(), options.end());
    return all;
  }
  /// KL divergence of the adapter's predictions against those of the export `out`, in that of the base.
  [[nodiscard]] double lost(const std::string& out) const {
    const auto report = json_of({"verify", "--exported", workspace.path(out), "--model", kEmbedded, "--adapter",
                                 adapter, "--data", data, "--dtype", "float32", "--min-retention", "0"});
    return report["kl_adapter_export"].get<double>() / report["kl_adapter_base"].get<double>();
  }
  [[nodiscard]] std::map<std::string, std::string> files(const std::string& out) const {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::directory_iterator(workspace.path(out)))
      if (entry.path().extension() != ".md") found[entry.path().filename()] = read_bytes(entry.path());
    return found;
  }

  /// The tensors of the export `out` with their bytes.
  [[nodiscard]] std::map<std::string, std::string> tensors(const std::string& out) const {
    const std::string file = read_bytes(workspace.path(out) + "/model.safetensors");
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof length);
    const auto header = nlohmann::json::parse(file.substr(sizeof length, length));
    std::map<std::string, std::string> found;
    for (const auto& [name, tensor] : header.items()) {
      if (name == "__metadata__") continue;
      const std::size_t first = tensor["data_offsets"][0], end = tensor["data_offsets"][1];
      found[name] = file.substr(sizeof length + length + first, end - first);
    }
    return found;
  }

  Workspace workspace;
  std::string data = workspace.tokens(40), adapter = workspace.path("run/adapter");
};

TEST(ExportRounding, KeepsWhatNearestLosesAndTakesTheRunsOwnDataByDefault) {
  const AdaptedExperts run;
  const std::string said = output_of(run.arguments("calibrated"));
  EXPECT_NE(said.find("experts rounded for calibration data: gain along the adapter "), std::string::npos) << said;
  EXPECT_EQ(output_of(run.arguments("nearest", {"--rounding", "nearest"})).find("calibration"), std::string::npos);
  EXPECT_GT(run.lost("nearest"), 0.5) << "the case is too easy";
  EXPECT_LT(run.lost("calibrated"), 0.3 * run.lost("nearest"));
  EXPECT_FALSE(fs::exists(run.workspace.path("calibrated.rounding")));

  (void)output_of(run.arguments("other", {"--calibration", run.data, "--threads", "1"}));
  EXPECT_TRUE(run.files("other") == run.files("calibrated")) << "a byte depends on the number of threads";
}

TEST(ExportRounding, InBFloat16TakesDataWhereAskedTo) {
  const AdaptedExperts run;
  const std::string plain = output_of(run.arguments("plain", {"--experts", "mixed"}));
  EXPECT_EQ(plain.find("calibration"), std::string::npos) << plain;
  const std::string said = output_of(run.arguments("calibrated", {"--experts", "mixed", "--rounding", "calibrated"}));
  EXPECT_NE(said.find("experts rounded for calibration data: gain along the adapter 1.00 in gate_up_proj, 1.00 in "),
            std::string::npos)
      << said;
  EXPECT_LT(run.lost("calibrated"), 0.7 * run.lost("plain"));
  EXPECT_FALSE(fs::exists(run.workspace.path("calibrated.rounding")));
  const std::string card = read_bytes(run.workspace.path("calibrated") + "/README.md");
  EXPECT_NE(card.find("rounded with calibration data"), std::string::npos) << card;
  const auto before = run.tensors("plain"), after = run.tensors("calibrated");
  for (const auto& [name, bytes] : before)
    EXPECT_EQ(after.at(name) != bytes, name.ends_with("_up_proj") || name.ends_with("experts.down_proj")) << name;

  (void)output_of(run.arguments("other", {"--experts", "mixed", "--calibration", run.data, "--threads", "1"}));
  EXPECT_TRUE(run.files("other") == run.files("calibrated")) << "a byte depends on the number of threads";
}

TEST(ExportRounding, OpenAisLayoutHasTheSameCodes) {
  const AdaptedExperts run;
  (void)output_of(run.arguments("hf"));
  const std::string said = output_of(run.arguments("openai", {"--format", "openai"}));
  EXPECT_NE(said.find("experts rounded for calibration data"), std::string::npos) << said;
  (void)output_of({"export", "--model", run.workspace.path("openai"), "--out", run.workspace.path("back")});
  EXPECT_TRUE(run.files("back").at("model.safetensors") == run.files("hf").at("model.safetensors"));
}

TEST(ExportRounding, InterruptedGoesOnToTheSameBytes) {
  const AdaptedExperts run;
  (void)output_of(run.arguments("whole"));
  const std::string work = run.workspace.path("stopped.rounding");
  const ProgramResult stopped = run_program(
      run.arguments("stopped"), {.interrupt_when = [&] { return fs::exists(work + "/layer-1.safetensors"); }});
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  EXPECT_NE(stopped.err.find(work), std::string::npos) << stopped.err;
  EXPECT_FALSE(fs::exists(run.workspace.path("stopped")));
  const std::string other = run.workspace.path("other.rounding");
  fs::copy(work, other);
  (void)output_of(run.arguments("stopped"));
  EXPECT_TRUE(run.files("stopped") == run.files("whole"));
  EXPECT_FALSE(fs::exists(work));
  (void)output_of(run.arguments("other", {"--rounding", "nearest"}));
  EXPECT_FALSE(fs::exists(other)) << "what was begun for a target that is complete now";
}

// Rounding may take hours: what is wrong with the rest is told before.
TEST(ExportRefuses, DataOfTheLastStepsBeforeTheRounding) {
  const AdaptedExperts run;
  const auto expect = [&](const std::vector<std::string>& options, const std::string& mention) {
    std::vector<std::string> all = {
        "export", "--model", kEmbedded, "--adapter", run.adapter, "--out", run.workspace.path("out")};
    all.insert(all.end(), options.begin(), options.end());
    run.workspace.expect_failure(all, 3, {mention});
  };
  expect({"--verify", run.workspace.path("absent.h5")}, "absent.h5");
  const std::string one =
      run.workspace.write("one.jsonl", R"({"prompt": "What is it?", "completion": "A chat robot."})");
  const std::string one_tokens = run.workspace.path("one.h5"), none = run.workspace.path("none.h5");
  output_of({"prepare", one, "--tokenizer", kEmbedded, "--date", "none", "--out", one_tokens});
  expect({"--recover", "3", "--calibration", one_tokens}, "expected at least 2");
  const std::string empty = run.workspace.write("empty.jsonl", R"({"text": "x"})");
  output_of({"prepare", empty, "--tokenizer", kEmbedded, "--out", none});
  expect({"--verify", none}, none + ": no token is learned");
}

TEST(ExportRounding, RecoveryTrainsTheExpertsBiasesAndNothingElse) {
  const AdaptedExperts run;
  (void)output_of(run.arguments("calibrated"));
  const std::string said = output_of(run.arguments("recovered", {"--recover", "24"}));
  EXPECT_NE(said.find("\nrecovered: KL divergence from base + adapter "), std::string::npos) << said;
  EXPECT_LT(run.lost("recovered"), run.lost("calibrated"));
  const auto before = run.tensors("calibrated"), after = run.tensors("recovered");
  ASSERT_EQ(before.size(), after.size());
  int changed = 0;
  for (const auto& [name, bytes] : before) {
    EXPECT_TRUE(name.ends_with("_proj_bias") || after.at(name) == bytes) << name;
    changed += after.at(name) != bytes;
  }
  EXPECT_GT(changed, 0);
  const std::string card = read_bytes(run.workspace.path("recovered") + "/README.md");
  EXPECT_NE(card.find("recovered"), std::string::npos) << card;
}

TEST(ExportRounding, InterruptedRecoveryKeepsTheRoundedLayers) {
  const AdaptedExperts run;
  const std::string work = run.workspace.path("stopped.rounding");
  const std::vector<std::string> arguments = run.arguments("stopped", {"--recover", "100000"});
  const std::string last = work + "/layer-3.safetensors";
  std::optional<std::chrono::steady_clock::time_point> rounded;
  const ProgramResult stopped = run_program(arguments, {.interrupt_when = [&] {
                                              const auto now = std::chrono::steady_clock::now();
                                              if (!rounded && fs::exists(last)) rounded = now;
                                              return rounded && now - *rounded > std::chrono::milliseconds(500);
                                            }});
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  EXPECT_NE(stopped.err.find(work), std::string::npos) << stopped.err;
  EXPECT_NE(stopped.err.find("the recovery's first step"), std::string::npos) << stopped.err;
  EXPECT_FALSE(fs::exists(run.workspace.path("stopped")));
  (void)output_of(run.arguments("stopped"));
  (void)output_of(run.arguments("whole"));
  EXPECT_TRUE(run.files("stopped") == run.files("whole"));
  EXPECT_FALSE(fs::exists(work));
}

TEST(ExportRefuses, Rounding) {
  const AdaptedExperts run;
  fs::rename(run.adapter, run.workspace.path("alone"));  // no longer in its run's folder
  const auto expect = [&](const std::vector<std::string>& options, int code, const std::vector<std::string>& mentions) {
    std::vector<std::string> all = {
        "export", "--model", kEmbedded, "--adapter", run.workspace.path("alone"), "--out", run.workspace.path("out")};
    all.insert(all.end(), options.begin(), options.end());
    run.workspace.expect_failure(all, code, mentions);
  };
  expect({"--rounding", "calibrated"}, 2, {"--rounding", "give --calibration FILE.h5"});
  expect({"--rounding", "nearest", "--calibration", run.data}, 2, {"--calibration", "--rounding nearest"});
  expect({"--experts", "bf16", "--rounding", "nearest"}, 2, {"--rounding", "--experts bf16", "leave it out"});
  expect({"--experts", "mixed", "--rounding", "calibrated"}, 2, {"--rounding", "give --calibration FILE.h5"});
  expect({"--recover", "9", "--rounding", "nearest"}, 2, {"--recover", "--rounding nearest"});
  expect({"--recover", "9", "--experts", "bf16"}, 2, {"--recover", "--experts mxfp4"});
  expect({"--recover", "9"}, 2, {"--recover", "give --calibration FILE.h5"});
  expect({"--recover", "0", "--calibration", run.data}, 2, {"--recover"});
  expect({"--rounding", "best"}, 2, {"--rounding", "nearest", "calibrated"});
  expect({"--calibration", run.workspace.path("absent.h5")}, 3, {"absent.h5"});

  const ProgramResult noted = run_program({"export", "--model", kEmbedded, "--adapter", run.workspace.path("alone"),
                                           "--out", run.workspace.path("out"), "--no-verify"});
  EXPECT_EQ(noted.exit_code, 0) << noted.err;
  EXPECT_NE(noted.err.find("rounded to nearest, which loses small changes"), std::string::npos) << noted.err;
}

}  // namespace
}  // namespace ossature
