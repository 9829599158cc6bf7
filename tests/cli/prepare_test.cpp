// `ossature prepare`: counts against the samples given, files read back by eval, and what it refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
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
  const auto final = std::find_if(train["channels"].begin(), train["channels"].end(),
                                  [](const auto& row) { return row["channel"] == "final"; });
  ASSERT_NE(final, train["channels"].end());
  EXPECT_EQ(train["learned_tokens"], (*final)["learned_tokens"]);
  EXPECT_EQ(report["records"], 5);
  EXPECT_TRUE(report["notes"].empty()) << report["notes"];
  EXPECT_FALSE(report.contains("validation"));
  const auto loss = json_of({"eval", "--model", kEmbedded, "--data", workspace.path("out.h5")});
  for (const char* count : {"samples", "tokens", "learned_tokens"}) EXPECT_EQ(loss[count], train[count]) << count;
}

TEST(PrepareCommand, TablesOfInspectOnStandardOutput) {
  const Workspace workspace;
  const std::string out = output_of(arguments(workspace, workspace.conversations(3), {"--date", "none"}));
  EXPECT_TRUE(out.starts_with("token file " + workspace.path("out.h5") + "\n  samples ")) << out;
  const auto printed = json_of(arguments(workspace, workspace.conversations(3), {"--date", "none"}))["train"];
  const auto inspected = json_of({"inspect", workspace.path("out.h5"), "--tokenizer", kEmbedded});
  for (const char* part : {"samples", "tokens", "longest_sample", "learned_tokens", "lengths", "channels"})
    EXPECT_EQ(printed[part], inspected[part]) << part;
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

TEST(PrepareCommand, ListsSamplesThatTeachNothing) {
  const Workspace workspace;
  const std::string input = workspace.write(
      "quiet.jsonl",
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "train": false}]})");
  const std::string out = output_of(arguments(workspace, input));
  EXPECT_NE(out.find("\n1 record: No token of the sample is learned"), std::string::npos) << out;
  EXPECT_NE(out.find("by channel.\n  " + input + ":1\n"), std::string::npos) << out;
  const auto loss = json_of({"eval", "--model", kEmbedded, "--data", workspace.path("out.h5")});
  EXPECT_EQ(loss["learned_tokens"], 0);
  EXPECT_TRUE(loss["loss"].is_null());
}

/// The object in `notes` of that kind; null if there is none.
nlohmann::json note(const nlohmann::json& report, const std::string& kind) {
  for (const auto& each : report["notes"]) {
    if (each["kind"] == kind) return each;
  }
  return nullptr;
}

TEST(PrepareCommand, SkipsWhatIsWrongIfAsked) {
  const Workspace workspace;
  std::string lines;
  for (int i = 1; i <= 20; ++i) lines += i % 2 == 0 ? "{\"text\": \n" : "{\"text\": \"fine\"}\n";
  const std::string input = workspace.write("mixed.jsonl", lines);
  const auto report = json_of(arguments(workspace, input, {"--on-error", "skip"}));
  EXPECT_EQ(report["records"], 20);
  EXPECT_EQ(report["train"]["samples"], 10);
  const auto skipped = note(report, "skipped");
  EXPECT_EQ(skipped["count"], 10);
  ASSERT_EQ(skipped["first"].size(), 5u);
  EXPECT_TRUE(skipped["first"][0].get<std::string>().starts_with(input + ":2: not JSON")) << skipped;
  const std::string out = output_of(arguments(workspace, input, {"--on-error", "skip"}));
  EXPECT_NE(out.find("\n10 records are wrong and were skipped:\n  " + input + ":2: "), std::string::npos) << out;
  EXPECT_NE(out.find("\n  and 5 more\n"), std::string::npos) << out;
}

TEST(PrepareCommand, OverLength) {
  const Workspace workspace;
  const std::string input =
      workspace.write("a.jsonl", "{\"text\": \"short\"}\n{\"text\": \"" + std::string(300, 'q') + "\"}\n");
  workspace.expect_failure(arguments(workspace, input, {"--max-length", "20"}), 3,
                           {input + ":2: ", " tokens, expected at most 20"});
  struct Case {
    const char *policy, *kind;
  };
  for (const auto& [policy, kind] : {Case{"drop", "dropped"}, Case{"truncate", "truncated"},
                                     Case{"truncate", "truncated_learned"}, Case{"split", "split"}}) {
    const auto report = json_of(arguments(workspace, input, {"--max-length", "20", "--over-length", policy}));
    EXPECT_EQ(note(report, kind)["count"], 1) << policy;
    EXPECT_TRUE(note(report, kind)["first"][0].get<std::string>().starts_with(input + ":2: ")) << report;
    EXPECT_LE(report["train"]["longest_sample"], 20);
  }
  const auto report = json_of(arguments(workspace, input, {"--max-length", "20", "--on-error", "skip"}));
  EXPECT_EQ(note(report, "skipped")["count"], 1);
}

TEST(PrepareCommand, WhatIsLearnedAndHowManySamples) {
  const Workspace workspace;
  const std::string input = workspace.write(
      "chat.jsonl", R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, )"
                    R"({"role": "user", "content": "c"}, {"role": "assistant", "thinking": "hm", "content": "d"}]})"
                    "\n");
  const auto train = [&](const std::vector<std::string>& options) {
    return json_of(arguments(workspace, input, options))["train"];
  };
  const auto all = train({});
  EXPECT_EQ(all["samples"], 1);
  EXPECT_EQ(train({"--turns", "expand"})["samples"], 2);
  EXPECT_LT(train({"--turns", "last"})["learned_tokens"], all["learned_tokens"]);
  EXPECT_LT(train({"--learn", "analysis=0"})["learned_tokens"], all["learned_tokens"]);
  EXPECT_LT(train({"--learn", "analysis=0.5"})["weight_sum"], all["weight_sum"]);
  EXPECT_GT(train({"--learn", "user=1"})["learned_tokens"], all["learned_tokens"]);
  EXPECT_GT(train({"--model-identity", "You are a helper of many words."})["tokens"], 0);
  EXPECT_NE(train({"--renderer", "harmony"})["tokens"], 0);
  // The first part of an answer that the options name reaches the tokens.
  output_of(arguments(workspace, input, {"--knowledge-cutoff", "1999-12", "--reasoning-effort", "high"}));
  const std::string tokens = output_of({"inspect", workspace.path("out.h5"), "--tokenizer", kEmbedded});
  EXPECT_NE(tokens.find("analysis"), std::string::npos) << tokens;
}

TEST(PrepareCommand, FieldsOfOtherNames) {
  const Workspace workspace;
  const std::string input = workspace.write("odd.jsonl", R"({"talk": [{"who": "user", "said": "a"}, )"
                                                         R"({"who": "assistant", "said": "b"}]})"
                                                         "\n");
  const auto report =
      json_of(arguments(workspace, input, {"--map", "messages=talk,role=who", "--map", "content=said"}));
  EXPECT_EQ(report["train"]["samples"], 1);
}

TEST(PrepareCommand, StandardInput) {
  const Workspace workspace;
  const ProgramResult result =
      run_program(arguments(workspace, "-", {"--json"}), {.standard_input = "{\"text\": \"fine\"}\n"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out)["train"]["samples"], 1);
}

TEST(PrepareRefuses, Arguments) {
  const Workspace workspace;
  const std::string input = workspace.conversations(3);
  for (const char* date : {"tomorrow", "2026-02-29", "2026-01-15 "})
    workspace.expect_failure(arguments(workspace, input, {"--date", date}), 2,
                             {"--date: \"" + std::string(date) + "\" is not a date"});
  struct Case {
    std::vector<std::string> options;
    std::vector<std::string> mentions;
  };
  for (const auto& [options, mentions] : std::vector<Case>{
           {{"--format", "pdf"}, {"--format: pdf"}},
           {{"--renderer", "jinja"}, {"--renderer: jinja"}},
           {{"--reasoning-effort", "huge"}, {"--reasoning-effort: huge"}},
           {{"--turns", "first"}, {"--turns: first"}},
           {{"--learn", "finale=1"}, {"--learn: \"finale=1\"", "expected NAME=FACTOR"}},
           {{"--learn", "final=-1"}, {"--learn: ", "expected NAME=FACTOR"}},
           {{"--map", "content"}, {"--map: "}},
           {{"--map", "contents=text"}, {"--map: "}},
           {{"--max-length", "1"}, {"--max-length: "}},
           {{"--max-length", "many"}, {"--max-length"}},
           {{"--max-length", "20", "--over-length", "cut"}, {"--over-length: cut"}},
           {{"--over-length", "drop"}, {"--over-length", "needs --max-length"}},
           {{"--on-error", "ignore"}, {"--on-error: ignore"}},
           {{"--threads", "-1"}, {"--threads"}},
       }) {
    workspace.expect_failure(arguments(workspace, input, options), 2, mentions);
  }
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

/// What fails leaves none of them: expect_failure() looks.
TEST(PrepareCommand, MakesMissingFolders) {
  const Workspace workspace;
  const std::string out = workspace.path("a/b/out.h5"), held_out = workspace.path("c/out.h5");
  const auto prepare = [&](const std::string& input) {
    return std::vector<std::string>{"prepare", input,          "--tokenizer", kEmbedded,          "--out",
                                    out,       "--validation", "0.2",         "--validation-out", held_out};
  };
  const std::string broken = workspace.write("broken.jsonl", "{\"text\": \n");
  workspace.expect_failure(prepare(broken), 3, {broken + ":1: not JSON"});
  (void)output_of(prepare(workspace.conversations(20)));
  EXPECT_TRUE(fs::is_regular_file(out));
  EXPECT_TRUE(fs::is_regular_file(held_out));
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
  workspace.expect_failure(arguments(workspace, empty), 3,
                           {"no sample for " + workspace.path("out.h5") + ": the inputs are empty"});
}

TEST(PrepareRefuses, Outputs) {
  const Workspace workspace;
  const std::string input = workspace.conversations(3);
  const auto to = [&](const std::string& out) {
    return std::vector<std::string>{"prepare", input, "--tokenizer", kEmbedded, "--out", out};
  };
  workspace.expect_failure(to(input), 3, {input + ": already exists and is no HDF5 file"});
  fs::create_directory(workspace.path("directory"));
  workspace.expect_failure(to(workspace.path("directory")), 3, {workspace.path("directory") + ": is a directory"});
  workspace.expect_failure(to(input + "/out.h5"), 3, {input + " is not a directory"});
  workspace.expect_failure(to(input + "/new/out.h5"), 3, {input + "/new is not a directory"});
  workspace.expect_failure(to("/proc/out.h5"), 3, {"/proc/out.h5: cannot be written"});
  const std::vector<std::string> twice = {"--validation", "0.2", "--validation-out", workspace.path("out.h5")};
  workspace.expect_failure(arguments(workspace, input, twice), 3, {workspace.path("out.h5") + ": named for both"});
}

TEST(PrepareFailure, FullDiskKeepsTheOldFile) {
  const Workspace workspace;
  const std::string input = workspace.conversations(40);
  output_of(arguments(workspace, input));
  workspace.expect_failure(arguments(workspace, input), 5, {workspace.path("out.h5"), "File too large"},
                           {.max_file_bytes = 2'000});
}

}  // namespace
}  // namespace ossature
