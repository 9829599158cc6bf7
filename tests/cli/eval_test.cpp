// `ossature eval`: its figures against each other and against the embedded model's measured loss, and what it refuses.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/spoiled_model.h"
#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

std::vector<float> read_column(const std::string& file, const char* name) {
  const hid_t opened = H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(opened, name, H5P_DEFAULT);
  const hid_t space = H5Dget_space(dataset);
  std::vector<float> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0) << name;
  H5Sclose(space);
  H5Dclose(dataset);
  H5Fclose(opened);
  return values;
}

TEST(EvalCommand, TextAndJsonSayTheSame) {
  const Workspace workspace;
  const std::vector<std::string> arguments = {"eval", "--model", kEmbedded, "--data", workspace.tokens(10)};
  const auto report = json_of(arguments);
  const double loss = report["loss"];
  // Trained to 4.26 on text and chats; a uniform guess has ln 4,096 = 8.3.
  EXPECT_GT(loss, 2.0);
  EXPECT_LT(loss, 5.5);
  EXPECT_NEAR(report["perplexity"].get<double>(), std::exp(loss), 1e-9);
  EXPECT_EQ(report["samples"], 10);
  char line[200];
  std::snprintf(line, sizeof line, "loss %.4f  perplexity %.3f  (10 samples, %d tokens, %d learned)\n", loss,
                std::exp(loss), report["tokens"].get<int>(), report["learned_tokens"].get<int>());
  const std::string text = output_of(arguments);
  EXPECT_TRUE(text.starts_with(line)) << text;
  std::snprintf(line, sizeof line, "%.4f +- %.4f", loss, loss - report["loss_interval"][0].get<double>());
  EXPECT_NE(text.find(line), std::string::npos) << line << " is not in\n" << text;
}

TEST(EvalCommand, GroupsAddUpToTheWhole) {
  const Workspace workspace;
  const std::string other = workspace.write("other.jsonl", read_bytes(workspace.conversations(4)));
  output_of({"prepare", workspace.conversations(7), other, "--tokenizer", kEmbedded, "--date", "none", "--out",
             workspace.path("two.h5")});
  const auto report = json_of({"eval", "--model", kEmbedded, "--data", workspace.path("two.h5")});
  for (const char* by : {"channels", "files"}) {
    double loss = 0.0, accuracy = 0.0;
    int learned = 0;
    for (const auto& [name, group] : report[by].items()) {
      learned += group["learned_tokens"].get<int>();
      loss += group["loss"].get<double>() * group["learned_tokens"].get<int>();
      accuracy += group["accuracy"].get<double>() * group["learned_tokens"].get<int>();
    }
    EXPECT_EQ(learned, report["learned_tokens"]) << by;
    EXPECT_NEAR(loss / learned, report["loss"].get<double>(), 1e-9) << by;
    EXPECT_NEAR(accuracy / learned, report["accuracy"].get<double>(), 1e-9) << by;
  }
  EXPECT_EQ(report["files"].size(), 2u);
  EXPECT_TRUE(report["channels"].contains("final")) << report["channels"];
}

TEST(EvalCommand, LogprobsGiveTheLoss) {
  const Workspace workspace;
  const std::string data = workspace.tokens(6), out = workspace.path("logprobs.h5");
  const auto report = json_of({"eval", "--model", kEmbedded, "--data", data, "--logprobs", out, "--dtype", "float32"});
  const std::vector<float> logprobs = read_column(out, "/logprobs"), weights = read_column(data, "/loss_weights");
  ASSERT_EQ(logprobs.size(), weights.size());
  EXPECT_EQ(report["tokens"], logprobs.size());
  double sum = 0.0, weight = 0.0;
  int firsts = 0;
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    if (std::isnan(logprobs[i])) {
      ++firsts;
      continue;
    }
    EXPECT_LE(logprobs[i], 0.0f) << i;
    sum -= static_cast<double>(weights[i] * logprobs[i]);
    weight += static_cast<double>(weights[i]);
  }
  EXPECT_EQ(firsts, 6) << "only the first token of a sample has no probability";
  EXPECT_NEAR(report["loss"].get<double>(), sum / weight, 1e-5);
}

TEST(EvalCommand, SameLossHoweverManyTokensAtOnce) {
  const Workspace workspace;
  std::vector<std::string> arguments = {"eval",    "--model", kEmbedded, "--data", workspace.tokens(8),
                                        "--dtype", "float32"};
  const double loss = json_of(arguments)["loss"];
  arguments.insert(arguments.end(), {"--max-tokens", "100"});
  EXPECT_NEAR(json_of(arguments)["loss"].get<double>(), loss, 1e-5);
}

/// The figures of a paired evaluation are those of two, and their difference is judged sample by sample.
TEST(EvalCommand, AdapterBesideItsBase) {
  const Workspace workspace;
  const std::string model = kEmbedded, data = workspace.tokens(24), run = workspace.path("run");
  output_of({"train",
             workspace.write("r.yaml", "base_model: " + model + "\noutput_dir: " + run + "\ndata: {train: " + data +
                                           ", sequence_length: 256}\nlora: {r: 4}\ntrain: {max_steps: 3, warmup_steps: "
                                           "0, gradient_accumulation_steps: 1, learning_rate: 2.0e-3}\n")});
  const std::vector<std::string> of_base = {"eval", "--model", model, "--data", data};
  auto paired = of_base, alone = of_base;
  paired.insert(paired.end(), {"--adapter", run + "/adapter"});
  alone.insert(alone.end(), {"--adapter", run + "/adapter", "--adapter-only"});
  auto both = json_of(paired), base = json_of(of_base), adapter = json_of(alone);
  EXPECT_FALSE(adapter.contains("base"));
  for (const char* key : {"loss", "loss_interval", "perplexity", "accuracy", "accuracy_interval", "learned_tokens"}) {
    EXPECT_EQ(both[key], adapter[key]) << key;
    EXPECT_EQ(both["base"][key], base[key]) << key;
  }
  const double gain = both["difference"]["loss"];
  EXPECT_LT(gain, 0.0) << "it has learned these";
  EXPECT_NEAR(gain, adapter["loss"].get<double>() - base["loss"].get<double>(), 1e-12);
  const auto width = [](const nlohmann::json& interval) {
    return interval[1].get<double>() - interval[0].get<double>();
  };
  const double paired_width = width(both["difference"]["loss_interval"]);
  EXPECT_GT(paired_width, 0.0);
  EXPECT_LT(paired_width, width(base["loss_interval"])) << "what samples have in common is not counted as chance";
  for (const auto& [channel, group] : both["channels"].items())
    EXPECT_EQ(group["base"]["loss"], base["channels"][channel]["loss"]) << channel;
  char line[64];
  std::snprintf(line, sizeof line, "%.4f +- %.4f\n", gain, paired_width / 2);
  const std::string text = output_of(paired);
  EXPECT_NE(text.find("adapter - base\n"), std::string::npos) << text;
  EXPECT_NE(text.find(line), std::string::npos) << line << " is not in\n" << text;
}

TEST(EvalCommand, WarnsOfAnotherTokenizer) {
  const Workspace workspace;
  const std::string tokenizer = read_bytes(kEmbedded / "tokenizer.json") + "\n", tokens = workspace.path("other.h5");
  workspace.write("other/tokenizer.json", tokenizer);
  output_of({"prepare", workspace.conversations(2), "--tokenizer", workspace.path("other"), "--date", "none", "--out",
             tokens});
  const std::string warning = "was made with another tokenizer than " + (kEmbedded / "tokenizer.json").string();
  const ProgramResult other = run_program({"eval", "--model", kEmbedded, "--data", tokens});
  EXPECT_EQ(other.exit_code, 0) << other.err;
  EXPECT_NE(other.err.find("warning: " + tokens + " " + warning), std::string::npos) << other.err;
  const ProgramResult own = run_program({"eval", "--model", kEmbedded, "--data", workspace.tokens(2)});
  EXPECT_EQ(own.err.find("warning"), std::string::npos) << own.err;
}

TEST(EvalRefuses, LossesThatAreNotFinite) {
  const Workspace workspace;
  const std::string model = workspace.small_model(), tokens = workspace.tokens(3);
  spoil_embedding(model, token_of_one_sample(tokens, 1));
  workspace.expect_failure({"eval", "--model", model, "--data", tokens}, 4, {model, "is not a finite number"});
}

TEST(EvalRefuses, Arguments) {
  const Workspace workspace;
  const std::string data = workspace.tokens(2);
  workspace.expect_failure({"eval", "--model", kEmbedded}, 2, {"--data is required"});
  workspace.expect_failure({"eval", "--data", data}, 2, {"--model is required"});
  workspace.expect_failure({"eval", "--model", kEmbedded, "--data", data, "--dtype", "int8"}, 2, {"--dtype: int8"});
  workspace.expect_failure({"eval", "--model", kEmbedded, "--data", data, "--max-tokens", "0"}, 2, {"--max-tokens: "});
  workspace.expect_failure({"eval", "--model", kEmbedded, "--data", data, "--logprobs", data}, 2,
                           {"--logprobs: would overwrite " + data});
}

TEST(EvalRefuses, Inputs) {
  const Workspace workspace;
  const std::string data = workspace.tokens(2), absent = workspace.path("absent");
  const std::string text = workspace.write("text.h5", "not HDF5");
  const auto eval = [&](const std::string& model, const std::string& file) {
    return std::vector<std::string>{"eval", "--model", model, "--data", file};
  };
  workspace.expect_failure(eval(kEmbedded, absent), 3, {absent + ": no such file"});
  workspace.expect_failure(eval(kEmbedded, text), 3, {text + ": not a readable HDF5 file"});
  workspace.expect_failure(eval(kEmbedded, kEmbedded), 3, {kEmbedded});
  workspace.expect_failure(eval(absent, data), 3, {absent + ": not a directory"});
  workspace.expect_failure(eval(data, data), 3, {data + ": not a directory"});
  auto with_adapter = eval(kEmbedded, data);
  with_adapter.insert(with_adapter.end(), {"--adapter", absent});
  workspace.expect_failure(with_adapter, 3, {absent});
}

TEST(EvalRefuses, VocabularyLargerThanTheModels) {
  const Workspace workspace;
  const std::string data = workspace.tokens(2), tiny = workspace.path("tiny");
  output_of({"init", "tiny", "--layers", "1", "--out", tiny});
  workspace.expect_failure({"eval", "--model", tiny, "--data", data}, 3,
                           {data + ": made with a vocabulary of 4096, but " + tiny + " has 1024"});
}

TEST(EvalRefuses, LogprobsThatCannotBeWritten) {
  const Workspace workspace;
  const std::string data = workspace.tokens(2);
  fs::create_directory(workspace.path("directory"));
  for (const std::string& out : {workspace.path("directory"), data + "/out.h5", std::string("/proc/out.h5")})
    workspace.expect_failure({"eval", "--model", kEmbedded, "--data", data, "--logprobs", out}, 3, {out});
}

TEST(EvalFailure, FullDiskLeavesNoLogprobs) {
  const Workspace workspace;
  const std::string data = workspace.tokens(2), out = workspace.path("out.h5");
  workspace.expect_failure({"eval", "--model", kEmbedded, "--data", data, "--logprobs", out}, 5,
                           {out, "File too large"}, {.max_file_bytes = 1'000});
}

}  // namespace
}  // namespace ossature
