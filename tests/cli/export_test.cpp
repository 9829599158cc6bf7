// `ossature export`: a merge has the loss of base and adapter in every layout, and what it refuses.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

/// The embedded model, data of six samples, and an adapter after its first steps on `parameters` and attention.
class Adapted {
 public:
  explicit Adapted(const std::string& parameters) {
    const std::string recipe = workspace.write(
        "recipe.yaml", "base_model: " + kEmbedded.string() + "\noutput_dir: " + workspace.path("run") +
                           "\ndata: {train: " + data + ", sequence_length: 512}\nlora: {r: 4, target_parameters: [" +
                           parameters + "]}\ntrain: {epochs: 2, learning_rate: 5.0e-3, warmup_steps: 0}\n");
    EXPECT_EQ(output_of({"train", recipe}), "");
    base = loss({kEmbedded});
    adapted = loss({kEmbedded, "--adapter", adapter});
    EXPECT_LT(adapted, base - 0.2) << "the adapter must do something";
  }
  [[nodiscard]] double loss(const std::vector<std::string>& model) const {
    std::vector<std::string> arguments = {"eval", "--data", data, "--dtype", "float32", "--model"};
    arguments.insert(arguments.end(), model.begin(), model.end());
    return json_of(arguments)["loss"].get<double>();
  }
  /// The directory of the merge, whose layout is `layout`; the program calls it `said`.
  [[nodiscard]] std::string merged(const std::vector<std::string>& options, const std::string& layout,
                                   const std::string& said) const {
    std::string out = workspace.path("merged as " + layout);
    std::vector<std::string> arguments = {"export", "--model", kEmbedded, "--adapter",
                                          adapter,  "--out",   out,       "--no-verify"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const std::string line = output_of(arguments);
    EXPECT_TRUE(line.starts_with(out + ": 12235584 parameters, ")) << line;
    EXPECT_TRUE(line.ends_with(said + ", adapter merged\n")) << line;
    const auto report = json_of({"inspect", out});
    EXPECT_EQ(report["layout"], layout);
    EXPECT_EQ(report["parameters"], 12235584);
    EXPECT_EQ(read_bytes(out + "/tokenizer.json"), read_bytes(kEmbedded / "tokenizer.json"));
    return out;
  }

  Workspace workspace;
  std::string data = workspace.tokens(6), adapter = workspace.path("run/adapter");
  double base = 0.0, adapted = 0.0;
};

TEST(ExportCommand, BFloat16MergeHasTheLossOfBaseAndAdapter) {
  const Adapted run("mlp.experts.gate_up_proj, mlp.experts.down_proj");
  EXPECT_NEAR(run.loss({run.merged({"--experts", "bf16"}, "transformers", "transformers' layout, experts bfloat16")}),
              run.adapted, 0.01);
}

// On attention only: what an adapter adds to experts in so few steps is smaller than half a step of MXFP4's grid, and
// rounding to nearest takes it away again.
TEST(ExportCommand, Mxfp4MergesHaveTheLossOfBaseAndAdapter) {
  const Adapted run("");
  EXPECT_NEAR(run.loss({run.merged({}, "transformers", "transformers' layout, experts MXFP4")}), run.adapted, 0.01);
  EXPECT_NEAR(run.loss({run.merged({"--format", "openai"}, "openai", "OpenAI's layout, experts MXFP4")}), run.adapted,
              0.01);
}

TEST(ExportCommand, WithoutAnAdapterThereAndBack) {
  const Workspace workspace;
  const std::string openai = workspace.path("openai"), back = workspace.path("back");
  const std::string line = output_of({"export", "--model", kEmbedded, "--format", "openai", "--out", openai});
  EXPECT_TRUE(line.ends_with("OpenAI's layout, experts MXFP4\n")) << line;
  output_of({"export", "--model", openai, "--out", back});
  EXPECT_TRUE(read_bytes(fs::path(back) / "model.safetensors") == read_bytes(kEmbedded / "model.safetensors"));
}

TEST(ExportCommand, GgufThereAndBackIsTheSameModelAndTokenizer) {
  const Workspace workspace;
  for (const std::string name : {"new/model.gguf", "folder"}) {
    const std::string gguf = workspace.path(name), back = workspace.path(name + " and back");
    const std::string line = output_of({"export", "--model", kEmbedded, "--format", "gguf", "--out", gguf});
    EXPECT_TRUE(line.ends_with("GGUF, experts MXFP4\n")) << line;
    EXPECT_EQ(read_bytes(name == "folder" ? gguf + "/model.gguf" : gguf).substr(0, 4), "GGUF");
    output_of({"export", "--model", gguf, "--out", back});
    EXPECT_TRUE(read_bytes(fs::path(back) / "model.safetensors") == read_bytes(kEmbedded / "model.safetensors"));
    const auto reply = [](const std::string& model) {
      return output_of({"generate", "--model", model, "--date", "none", "--prompt", "Are you sentient? \u00fc"});
    };
    EXPECT_EQ(reply(back), reply(kEmbedded));
  }
}

TEST(ExportCommand, AdapterForLlamaCpp) {
  const Adapted run("mlp.experts.gate_up_proj, mlp.experts.down_proj");
  const std::string out = run.workspace.path("new/adapter.gguf");
  const std::vector<std::string> arguments = {"export",   "--model",      kEmbedded, "--adapter", run.adapter,
                                              "--format", "gguf-adapter", "--out",   out};
  const std::string line = output_of(arguments);
  EXPECT_NE(line.find("24 low-rank pairs"), std::string::npos) << line;
  EXPECT_EQ(read_bytes(out).substr(0, 4), "GGUF");
  run.workspace.expect_failure(arguments, 3, {out + ": already exists"});
  run.workspace.expect_failure(
      {"export", "--model", kEmbedded, "--format", "gguf-adapter", "--out", run.workspace.path("other.gguf")}, 2,
      {"--adapter: is missing"});
}

TEST(ExportRefuses, Arguments) {
  const Workspace workspace;
  const std::string out = workspace.path("out");
  workspace.expect_failure({"export", "--model", kEmbedded}, 2, {"--out is required"});
  workspace.expect_failure({"export", "--out", out}, 2, {"--model is required"});
  workspace.expect_failure({"export", "--model", kEmbedded, "--out", out, "--format", "onnx"}, 2, {"--format: onnx"});
  workspace.expect_failure({"export", "--model", kEmbedded, "--out", out, "--experts", "int4"}, 2, {"--experts: int4"});
  workspace.expect_failure({"export", "--model", kEmbedded, "--out", out, "--format", "openai", "--experts", "bf16"}, 2,
                           {"--experts: bf16 does not go with --format openai"});
  const std::string data = workspace.tokens(2);
  for (const std::vector<std::string>& unused : std::vector<std::vector<std::string>>{
           {"--verify", data}, {"--calibration", data}, {"--recover", "3"}, {"--rounding", "calibrated"}}) {
    std::vector<std::string> arguments = {"export", "--model", kEmbedded, "--out", out};
    arguments.insert(arguments.end(), unused.begin(), unused.end());
    workspace.expect_failure(arguments, 2, {unused.front() + ": goes with --adapter"});
    arguments.insert(arguments.end(), {"--format", "gguf-adapter", "--adapter", "any"});
    workspace.expect_failure(arguments, 2, {unused.front() + ": does not go with --format gguf-adapter"});
  }
  workspace.expect_failure({"export", "--model", kEmbedded, "--out", out + ".gguf"}, 2,
                           {"--out: " + out + ".gguf is the name of a GGUF file", "give --format gguf"});
  const std::string small = (fs::path(OSSATURE_SOURCE_DIR) / "tests/golden/small").string();
  workspace.expect_failure({"export", "--model", small + "/hf", "--adapter", small + "/adapter", "--adapter",
                            small + "/../small/adapter=0.5", "--out", out},
                           2, {"is given twice", "=2"});
}

TEST(ExportRefuses, Inputs) {
  const Workspace workspace;
  const std::string out = workspace.path("out"), absent = workspace.path("absent");
  const auto from = [&](const std::string& model) {
    return std::vector<std::string>{"export", "--model", model, "--out", out};
  };
  workspace.expect_failure(from(absent), 3, {absent + ": not a directory"});
  workspace.expect_failure(from(kEmbedded / "config.json"), 3, {(kEmbedded / "config.json").string()});
  fs::create_directory(workspace.path("empty"));
  workspace.expect_failure(from(workspace.path("empty")), 3, {workspace.path("empty") + "/config.json"});
  auto with_adapter = from(kEmbedded);
  with_adapter.insert(with_adapter.end(), {"--adapter", absent});
  workspace.expect_failure(with_adapter, 3, {absent + "/adapter_config.json"});
  with_adapter.back() = std::string(OSSATURE_SOURCE_DIR) + "/tests/golden/small/adapter";
  workspace.expect_failure(with_adapter, 3, {with_adapter.back(), "is the adapter of another model?"});
}

TEST(ExportRefuses, Outputs) {
  const Workspace workspace;
  const std::string file = workspace.write("full/file", "mine");
  const auto to = [&](const std::string& out) {
    return std::vector<std::string>{"export", "--model", kEmbedded, "--out", out};
  };
  workspace.expect_failure(to(workspace.path("full")), 3, {workspace.path("full") + ": already exists"});
  workspace.expect_failure(to(file), 3, {file + ": already exists"});
  fs::create_symlink(workspace.path("nothing"), workspace.path("link"));
  workspace.expect_failure(to(workspace.path("link")), 3, {workspace.path("link") + ": is a symbolic link to nothing"});
  workspace.expect_failure(to(file + "/out"), 3, {file + "/out", "Not a directory"});
  workspace.expect_failure(to("/proc/ossature-test/out"), 3, {"/proc/ossature-test/out"});
}

TEST(ExportFailure, FullDiskLeavesNothing) {
  const Workspace workspace;
  const std::string out = workspace.path("a/b");
  workspace.expect_failure({"export", "--model", kEmbedded, "--out", out}, 5, {out, "File too large"},
                           {.max_file_bytes = 1'000'000});
}

}  // namespace
}  // namespace ossature
