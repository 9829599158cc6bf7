// `ossature prepare`: counts against the samples given, files read back by eval, and what it refuses.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> arguments(const Workspace& workspace, const std::string& input,
                                   const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {"prepare", input, "--tokenizer", kEmbedded, "--out", workspace.path("out.h5")};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST(PrepareCommand, CountsWhatItWrites) {
  const Workspace workspace;
  const auto report = json_of(arguments(workspace, workspace.conversations(5), {"--date", "none"}));
  const auto& train = report["train"];
  EXPECT_EQ(train["samples"], 5);
  EXPECT_EQ(train["samples_without_learned_tokens"], 0);
  EXPECT_EQ(train["learned_tokens"], train["learned_by_channel"]["final"]);
  EXPECT_FALSE(report.contains("validation"));
  const auto loss = json_of({"eval", "--model", kEmbedded, "--data", workspace.path("out.h5")});
  for (const char* count : {"samples", "tokens", "learned_tokens"}) EXPECT_EQ(loss[count], train[count]) << count;
}

TEST(PrepareCommand, TextOnStandardOutput) {
  const Workspace workspace;
  const std::string out = output_of(arguments(workspace, workspace.conversations(3), {"--date", "none"}));
  EXPECT_TRUE(out.starts_with(workspace.path("out.h5") + ": 3 samples, ")) << out;
  EXPECT_NE(out.find("\n  learned "), std::string::npos) << out;
  EXPECT_NE(out.find(" tokens: final "), std::string::npos) << out;
}

TEST(PrepareCommand, SameFileWhateverTheThreads) {
  const Workspace workspace;
  const std::string input = workspace.conversations(40);
  for (const char* threads : {"1", "3"})
    output_of({"prepare", input, "--tokenizer", kEmbedded, "--threads", threads, "--date", "2026-01-15", "--out",
               workspace.path(threads)});
  EXPECT_TRUE(read_bytes(workspace.path("1")) == read_bytes(workspace.path("3")));
}

TEST(PrepareCommand, DateIsInTheTokens) {
  const Workspace workspace;
  const std::string input = workspace.conversations(2);
  const auto tokens = [&](const char* date) {
    return json_of(arguments(workspace, input, {"--date", date}))["train"]["tokens"].get<int>();
  };
  const int without = tokens("none");
  EXPECT_GT(tokens("2026-02-28"), without);
  EXPECT_GT(tokens("today"), without);
}

TEST(PrepareCommand, ValidationIsAPartition) {
  const Workspace workspace;
  const std::string input = workspace.conversations(60);
  const std::vector<std::string> held_out = {
      "--date", "none", "--validation", "0.3", "--validation-out", workspace.path("validation.h5")};
  const auto whole = json_of(arguments(workspace, input, {"--date", "none"}))["train"];
  const auto parts = json_of(arguments(workspace, input, held_out));
  for (const char* count : {"samples", "tokens", "learned_tokens"}) {
    EXPECT_EQ(parts["train"][count].get<int>() + parts["validation"][count].get<int>(), whole[count]) << count;
    EXPECT_GT(parts["validation"][count], 0);
  }
  const auto validation = json_of({"eval", "--model", kEmbedded, "--data", workspace.path("validation.h5")});
  EXPECT_EQ(validation["samples"], parts["validation"]["samples"]);
}

TEST(PrepareCommand, TwoFilesAndTwoFormats) {
  const Workspace workspace;
  const std::string text = workspace.write("text.jsonl", R"({"text": "Call me Ishmael."})"
                                                         "\n\n");
  const std::string pair = workspace.write("pair.jsonl", R"({"prompt": "Name?", "completion": "Ishmael."})"
                                                         "\n");
  const auto train = json_of(arguments(workspace, text, {pair}))["train"];
  EXPECT_EQ(train["samples"], 2);
}

TEST(PrepareCommand, WarnsOfSamplesThatTeachNothing) {
  const Workspace workspace;
  const std::string input = workspace.write(
      "quiet.jsonl",
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "train": false}]})");
  const ProgramResult result = run_program(arguments(workspace, input));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "warning: in 1 samples of " + workspace.path("out.h5") + " nothing is learned\n");
  const auto loss = json_of({"eval", "--model", kEmbedded, "--data", workspace.path("out.h5")});
  EXPECT_EQ(loss["learned_tokens"], 0);
  EXPECT_TRUE(loss["loss"].is_null());
}

TEST(PrepareRefuses, Arguments) {
  const Workspace workspace;
  const std::string input = workspace.conversations(3);
  for (const char* date : {"tomorrow", "2026-02-29", "2026-01-15 "})
    workspace.expect_failure(arguments(workspace, input, {"--date", date}), 2,
                             {"--date: \"" + std::string(date) + "\" is not a date"});
  workspace.expect_failure(arguments(workspace, input, {"--format", "alpaca"}), 2, {"--format: alpaca"});
  workspace.expect_failure(arguments(workspace, input, {"--validation", "0.2"}), 2, {"--validation-out"});
  workspace.expect_failure(arguments(workspace, input, {"--validation-out", workspace.path("v.h5")}), 2,
                           {"--validation"});
  workspace.expect_failure(arguments(workspace, input, {"--validation", "2"}), 2, {"--validation: "});
}

TEST(PrepareRefuses, Inputs) {
  const Workspace workspace;
  const std::string input = workspace.conversations(3);
  const std::string absent = workspace.path("absent");
  workspace.expect_failure(arguments(workspace, absent), 3, {absent + ": cannot be opened"});
  workspace.expect_failure(arguments(workspace, input, {absent}), 3, {absent + ": cannot be opened"});
  workspace.expect_failure(arguments(workspace, workspace.path("")), 3, {workspace.path(""), "cannot be opened"});
  workspace.expect_failure({"prepare", input, "--tokenizer", absent, "--out", workspace.path("out.h5")}, 3, {absent});
  workspace.expect_failure({"prepare", input, "--tokenizer", input, "--out", workspace.path("out.h5")}, 3, {input});
}

TEST(PrepareRefuses, BrokenLinesByNumber) {
  const Workspace workspace;
  const std::string good = R"({"text": "fine"})"
                           "\n";
  const std::string broken = workspace.write("broken.jsonl", good + "\n{\"text\": \n");
  workspace.expect_failure(arguments(workspace, broken), 3, {broken + ":3: not JSON"});
  const std::string other = workspace.write("other.jsonl", good + good);
  workspace.expect_failure(arguments(workspace, other, {"--format", "messages"}), 3, {other + ":1: "});
  const std::string empty = workspace.write("empty.jsonl", "\n\n");
  workspace.expect_failure(arguments(workspace, empty), 3, {"no sample for " + workspace.path("out.h5")});
}

TEST(PrepareRefuses, Outputs) {
  const Workspace workspace;
  const std::string input = workspace.conversations(3);
  const auto to = [&](const std::string& out) {
    return std::vector<std::string>{"prepare", input, "--tokenizer", kEmbedded, "--out", out};
  };
  workspace.expect_failure(to(input), 3, {input + ": is both read and to be written"});
  fs::create_directory(workspace.path("directory"));
  workspace.expect_failure(to(workspace.path("directory")), 3, {workspace.path("directory") + ": is a directory"});
  workspace.expect_failure(to(workspace.path("absent/out.h5")), 3, {workspace.path("absent/out.h5")});
  workspace.expect_failure(to(input + "/out.h5"), 3, {input + " is not a directory"});
  workspace.expect_failure(to("/proc/out.h5"), 3, {"/proc/out.h5: cannot be written"});
  const std::vector<std::string> twice = {"--validation", "0.2", "--validation-out", workspace.path("out.h5")};
  workspace.expect_failure(arguments(workspace, input, twice), 3, {workspace.path("out.h5") + ": named for both"});
}

TEST(PrepareFailure, FullDiskKeepsTheOldFile) {
  const Workspace workspace;
  const std::string input = workspace.conversations(40);
  workspace.write("out.h5", "an older file");
  workspace.expect_failure(arguments(workspace, input), 5, {workspace.path("out.h5"), "File too large"},
                           {.max_file_bytes = 2'000});
}

}  // namespace
}  // namespace ossature
