// `ossature train`: a run and its files, runs that are interrupted and go on, and what is refused.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cli/pseudo_terminal.h"
#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

/// A recipe for six steps of a small model with its inputs; `run` is its output_dir.
class TrainingRun {
 public:
  TrainingRun() : model(workspace.small_model()), tokens(workspace.tokens(24)) {
    recipe = workspace.write(
        "recipe.yaml",
        "base_model: " + model + "\noutput_dir: " + run + "\ndata: {train: " + tokens + ", validation: " + tokens +
            ", sequence_length: 128}\n"
            "lora: {r: 4, target_parameters: [mlp.experts.gate_up_proj]}\n"
            "train: {micro_batch_size: 2, gradient_accumulation_steps: 1, max_steps: 6, learning_rate: 1.0e-2, "
            "warmup_steps: 0}\n");
  }
  /// The loss of each step and, by "validation", of each evaluation.
  [[nodiscard]] static std::vector<nlohmann::json> metrics(const std::string& dir) {
    std::vector<nlohmann::json> lines;
    std::ifstream file(dir + "/metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  Workspace workspace;
  std::string run = workspace.path("run");
  std::string model, tokens, recipe;
};

std::vector<double> losses(const std::string& dir) {
  std::vector<double> result;
  for (const auto& line : TrainingRun::metrics(dir))
    if (line.contains("loss")) result.push_back(line["loss"]);
  return result;
}

std::string adapter_bytes(const std::string& dir) {
  return read_bytes(dir + "/adapter/adapter_model.safetensors");
}

TEST(TrainCommand, RunWithOverridesThatOtherCommandsRead) {
  const TrainingRun t;
  const ProgramResult result =
      run_program({"train", t.recipe, "lora.r=2", "train.max_steps=3", "evaluation.every_steps=2", "--threads", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("3 steps, 1 threads"), std::string::npos) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("\nstep 3/3  loss "), std::string::npos) << result.err;
  EXPECT_TRUE(result.err.ends_with("wrote " + t.run + "/adapter\n")) << result.err;

  const auto report = json_of({"inspect", t.run});
  EXPECT_EQ(report["kind"], "run");
  EXPECT_EQ(report["steps"], 3);
  EXPECT_EQ(report["validations"].size(), 3U) << "before the first step, after the second and at the end";
  EXPECT_EQ(report["checkpoints"], nlohmann::json({"step-3"}));
  EXPECT_EQ(json_of({"inspect", t.run + "/adapter"})["r"], 2);

  const auto eval = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"eval", "--model", t.model, "--data", t.tokens};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json_of(arguments)["loss"].get<double>();
  };
  const double before = eval({}), after = eval({"--adapter", t.run + "/adapter"});
  EXPECT_NEAR(report["validations"][0]["validation_loss"].get<double>(), before, 2e-3);
  EXPECT_NEAR(report["validations"][2]["validation_loss"].get<double>(), after, 2e-3);
  EXPECT_LT(after, before);
}

TEST(TrainCommand, RewritesOneLineOnATerminal) {
  const TrainingRun t;
  PseudoTerminal terminal({"train", t.recipe, "evaluation.every_steps=3"}, 120);
  int exit_code = -1;
  const std::string shown = terminal.rest(exit_code);
  EXPECT_EQ(exit_code, 0) << shown;
  for (const char* part : {"\r[####....................]  1/6  loss ", "\r[############............]  3/6  loss ",
                           "\r[########################]  6/6  loss ", " %)  ", "0:00 left\x1b[K"})
    EXPECT_NE(shown.find(part), std::string::npos) << part << " is not in\n" << shown;
  // What stays stands on lines of its own.
  EXPECT_NE(shown.find("\r\x1b[Kstep 3/6  validation loss "), std::string::npos) << shown;
  EXPECT_NE(shown.find("0:00 left\r\nwrote " + t.run + "/adapter\r\n"), std::string::npos) << shown;
}

TEST(TrainCommand, ResumeOfAFinishedRunChangesNothing) {
  const TrainingRun t;
  output_of({"train", t.recipe, "train.max_steps=2"});
  const auto before = losses(t.run);
  const std::string adapter = adapter_bytes(t.run);
  const ProgramResult again = run_program({"train", t.recipe, "train.max_steps=2", "--resume"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("going on after step 2"), std::string::npos) << again.err;
  EXPECT_EQ(losses(t.run), before);
  EXPECT_TRUE(adapter_bytes(t.run) == adapter);
}

TEST(TrainCommand, InterruptedRunGoesOnAsIfItHadNotBeen) {
  const TrainingRun t;
  // Far too long to end before the interrupt comes; at a constant rate its length does not matter to its steps.
  std::vector<std::string> arguments = {"train", t.recipe, "train.lr_scheduler=constant", "train.epochs=1000",
                                        "train.max_steps=10000"};
  const ProgramResult stopped = run_program(arguments, {.interrupt_after = "step 1/10000  loss "});
  ASSERT_EQ(stopped.exit_code, 130) << stopped.err;
  const auto done = losses(t.run).size();
  ASSERT_GE(done, 1U);
  EXPECT_TRUE(stopped.err.ends_with("\nossature: error: interrupted after step " + std::to_string(done) +
                                    "; go on with --resume\n"))
      << stopped.err;
  EXPECT_FALSE(fs::exists(t.run + "/adapter"));

  arguments.back() = "train.max_steps=" + std::to_string(done + 2);
  const std::string whole = t.workspace.path("whole");
  arguments.push_back("--resume");
  output_of(arguments);
  arguments.back() = "output_dir=" + whole;
  output_of(arguments);
  EXPECT_EQ(losses(whole).size(), done + 2);
  EXPECT_EQ(losses(t.run), losses(whole));
  EXPECT_TRUE(adapter_bytes(t.run) == adapter_bytes(whole));
}

TEST(TrainCommand, DryRunTellsAllAndChangesNothing) {
  const TrainingRun t;
  const auto before = t.workspace.contents();
  const std::string text = output_of({"train", t.recipe, "--dry-run", "train.seed=7"});
  for (const std::string& said : {"base_model: " + t.model, std::string("seed: 7"), std::string("adam_beta2: "),
                                  std::string("trained parameters"), std::string("steps")})
    EXPECT_NE(text.find(said), std::string::npos) << said << "\n" << text;
  EXPECT_EQ(t.workspace.contents(), before);
  t.workspace.expect_failure({"train", t.recipe, "--dry-run", "data.train=" + t.workspace.path("absent.h5")}, 3,
                             {"absent.h5"});
}

TEST(TrainCommand, GoesOnFromTheCheckpointBeforeADamagedOne) {
  const TrainingRun t;
  output_of({"train", t.recipe, "checkpoint.every_steps=2"});
  const std::string whole = adapter_bytes(t.run), newest = t.run + "/checkpoints/step-6/state.safetensors";
  std::string damaged = read_bytes(newest);
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
  std::ofstream(newest, std::ios::binary) << damaged;
  const ProgramResult result = run_program({"train", t.recipe, "checkpoint.every_steps=2", "--resume"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("passing over a damaged checkpoint: " + newest), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("going on after step 4"), std::string::npos) << result.err;
  EXPECT_EQ(adapter_bytes(t.run), whole);
  EXPECT_NE(read_bytes(newest), damaged);
}

TEST(TrainCommand, AllWeightsOfADenseCheckpoint) {
  const TrainingRun t;
  const std::string dense = t.workspace.path("dense");
  output_of({"init", t.workspace.path("config.json"), "--experts", "bf16", "--tokenizer", kEmbedded, "--out", dense});
  const std::string recipe = t.workspace.write(
      "full.yaml", "base_model: " + dense + "\noutput_dir: " + t.run + "\ndata: {train: " + t.tokens +
                       ", sequence_length: 128}\ntrain: {mode: full, max_steps: 2, warmup_steps: 0}\n");
  output_of({"train", recipe});
  EXPECT_EQ(json_of({"inspect", t.run + "/model"})["parameters"], json_of({"inspect", dense})["parameters"]);
  const auto eval = [&](const std::string& model) {
    return json_of({"eval", "--model", model, "--data", t.tokens})["loss"].get<double>();
  };
  EXPECT_LT(eval(t.run + "/model"), eval(dense));
}

TEST(TrainRefuses, RecipeErrorsAllAtOnce) {
  const Workspace workspace;
  const std::string recipe = workspace.write("recipe.yaml",
                                             "base_model: base\n"
                                             "output_dir: " +
                                                 workspace.path("run") +
                                                 "\n"
                                                 "data: {trian: train.h5}\n"
                                                 "train: {learning_rate: 7}\n");
  workspace.expect_failure(
      {"train", recipe, "lora.r=many", "loras.r=8", "nothing"}, 2,
      {recipe + ":3:", "data.trian", "did you mean data.train", recipe + ":4:", "train.learning_rate is",
       "lora.r is \"many\"", "unknown key \"loras.r\"", "argument \"nothing\": no value"});
}

TEST(TrainRefuses, Inputs) {
  const TrainingRun t;
  const std::string absent = t.workspace.path("absent");
  const auto refused = [&](const std::string& change, int exit_code, const std::vector<std::string>& mentions) {
    t.workspace.expect_failure({"train", t.recipe, change}, exit_code, mentions);
  };
  t.workspace.expect_failure({"train"}, 2, {"RECIPE is required"});
  t.workspace.expect_failure({"train", absent}, 2, {absent + ": cannot be read"});
  t.workspace.expect_failure({"train", t.workspace.path("")}, 2, {t.workspace.path("")});
  refused("base_model=" + absent, 3, {absent + ": not a directory"});
  refused("data.train=" + absent, 3, {absent + ": no such file"});
  refused("data.train=" + t.recipe, 3, {t.recipe + ": not a readable HDF5 file"});
  refused("data.validation=" + t.model, 3, {t.model});
  refused("lora.init_from=" + absent, 3, {absent});
  refused("lora.target_modules=[q_porj]", 2, {"lora.target_modules: \"q_porj\" picks nothing of the model"});
  const std::string tiny = t.workspace.path("tiny");
  output_of({"init", "tiny", "--layers", "1", "--out", tiny});
  refused("base_model=" + tiny, 3, {t.tokens + ": made with a vocabulary of 4096, but " + tiny + " has 1024"});
}

TEST(TrainRefuses, OutputDirectories) {
  const TrainingRun t;
  output_of({"train", t.recipe, "train.max_steps=1"});
  t.workspace.expect_failure({"train", t.recipe}, 2, {"output_dir: " + t.run + " already holds a run", "--resume"});
  t.workspace.expect_failure({"train", t.recipe, "--resume", "lora.r=8", "train.seed=3"}, 2,
                             {"lora.r is 8", "train.seed is 3", "can only go on with that"});
  t.workspace.expect_failure({"train", t.recipe, "output_dir=" + t.recipe + "/run"}, 3,
                             {t.recipe + "/run", "ot a directory"});
  t.workspace.expect_failure({"train", t.recipe, "output_dir=/proc/ossature-test/run"}, 3, {"/proc/ossature-test/run"});
}

TEST(TrainFailure, FullDiskLeavesNoHalfCheckpointAndTheRunGoesOn) {
  const TrainingRun t;
  const ProgramResult full = run_program({"train", t.recipe, "train.max_steps=2"}, {.max_file_bytes = 20'000});
  EXPECT_EQ(full.exit_code, 5);
  EXPECT_NE(full.err.find("\nossature: error: " + t.run + "/checkpoints/"), std::string::npos) << full.err;
  EXPECT_TRUE(full.err.ends_with("cannot be written: File too large\n")) << full.err;
  EXPECT_TRUE(fs::is_empty(t.run + "/checkpoints"));
  EXPECT_FALSE(fs::exists(t.run + "/adapter"));
  output_of({"train", t.recipe, "train.max_steps=2", "--resume"});
  EXPECT_EQ(losses(t.run).size(), 2U);
  EXPECT_TRUE(fs::exists(t.run + "/adapter/adapter_model.safetensors"));
}

}  // namespace
}  // namespace ossature
