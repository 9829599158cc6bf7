// `ossature preview`: which tokens are learned, as text and as a page, and what it refuses.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

const std::string kOther = std::string(OSSATURE_SOURCE_DIR) + "/tests/data/fixtures";

TEST(PreviewCommand, ShowsWhatIsLearned) {
  const Workspace workspace;
  const std::string file = workspace.tokens(3);
  const std::string out = output_of({"preview", file, "--tokenizer", kEmbedded});
  EXPECT_TRUE(out.starts_with("loss weight | text ")) << out;
  EXPECT_NE(out.find("\nsample 0 of 3, " + workspace.path("conversations.jsonl") + ":1: 93 tokens, 33 learned\n"),
            std::string::npos)
      << out;
  EXPECT_NE(out.find("\n       | <|start|>user<|message|>What is AI?<|end|>\n"), std::string::npos) << out;
  EXPECT_NE(
      out.find("\n       | <|start|>assistant\n     1 > <|channel|>final<|message|>Artificial Intelligence is the "),
      std::string::npos)
      << out;
  EXPECT_EQ(out.find('\x1b'), std::string::npos) << "no colours outside of a terminal";
  EXPECT_EQ(out.find("sample 1 of 3"), std::string::npos);
}

TEST(PreviewCommand, SamplesAndColoursAreChosen) {
  const Workspace workspace;
  const std::string file = workspace.tokens(3);
  const std::string out =
      output_of({"preview", file, "--tokenizer", kEmbedded, "--sample", "1", "--count", "9", "--color", "always"});
  EXPECT_EQ(out.find("sample 0 of 3"), std::string::npos);
  EXPECT_NE(out.find("sample 1 of 3"), std::string::npos);
  EXPECT_NE(out.find("sample 2 of 3"), std::string::npos);
  EXPECT_NE(out.find("\x1b[32m"), std::string::npos);
  const std::string cut = output_of({"preview", file, "--tokenizer", kEmbedded, "--max-tokens", "5"});
  EXPECT_NE(cut.find("93 tokens, the first 5 shown, none learned"), std::string::npos) << cut;
}

TEST(PreviewCommand, WritesAPage) {
  const Workspace workspace;
  const std::string file = workspace.tokens(3), page = workspace.write("page.html", "<!doctype html><p>old</p>");
  const std::string out = output_of({"preview", file, "--tokenizer", kEmbedded, "--count", "3", "--html", page});
  EXPECT_EQ(out, page + ": 3 samples\n");
  const std::string html = read_bytes(page);
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
  EXPECT_NE(html.find("<title>Preview of tokens.h5</title>"), std::string::npos);
  EXPECT_NE(html.find("sample 2 of 3"), std::string::npos);
}

TEST(PreviewCommand, AnotherTokenizerIsAWarning) {
  const Workspace workspace;
  const ProgramResult result = run_program({"preview", workspace.tokens(1), "--tokenizer", kOther});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(result.err.starts_with("warning: " + kOther + " has SHA-256 ")) << result.err;
  EXPECT_NE(result.out.find("\\id{"), std::string::npos) << "ids that this tokenizer does not have";
}

TEST(PreviewCommand, DataAreShownAsPrepareWouldRenderThem) {
  const Workspace workspace;
  const std::string data = workspace.conversations(3);
  const auto lines_of = [](const std::string& text) { return text.substr(text.find("-- system")); };
  const std::string before = output_of({"preview", data, "--tokenizer", kEmbedded, "--date", "none", "--sample", "1"});
  const std::string after = output_of({"preview", workspace.tokens(3), "--tokenizer", kEmbedded, "--sample", "1"});
  EXPECT_EQ(lines_of(before), lines_of(after));
  EXPECT_NE(before.find("\nsample 1, " + data + ":2: "), std::string::npos) << before;
  const std::string half = output_of({"preview", data, "--tokenizer", kEmbedded, "--learn", "final=0.5"});
  EXPECT_NE(half.find("\n   0.5 > <|channel|>final"), std::string::npos) << half;
}

TEST(PreviewCommandRefuses, DataWithOneErrorEach) {
  const Workspace workspace;
  const std::string data = workspace.conversations(3);
  workspace.expect_failure({"preview", data}, 2, {"--tokenizer: is missing"});
  workspace.expect_failure({"preview", data, "--tokenizer", kEmbedded, "--sample", "3"}, 3,
                           {"has no sample 3, only 3"});
  workspace.expect_failure({"preview", data, "--tokenizer", kEmbedded, "--learn", "finale=1"}, 2, {"--learn"});
  workspace.expect_failure({"preview", workspace.tokens(3), "--tokenizer", kEmbedded, "--turns", "last"}, 2,
                           {"rendered already"});
  const std::string bad = workspace.write(
      "bad.jsonl",
      R"({"messages": [{"role": "user", "content": "\u001b[31m"}, {"role": "\u001b]0;x", "content": ""}]})");
  workspace.expect_failure({"preview", bad, "--tokenizer", kEmbedded}, 3, {"bad.jsonl:1: ", "\\u001b]0;x"});
  workspace.expect_failure({"preview", workspace.path("\x1b[31m.h5"), "--tokenizer", kEmbedded}, 3, {"\\x1b[31m.h5"});
}

TEST(PreviewCommandRefuses, EachWithOneError) {
  const Workspace workspace;
  const std::string file = workspace.tokens(3);
  workspace.expect_failure({"preview", file}, 2, {"--tokenizer: is missing", "SHA-256"});
  workspace.expect_failure({"preview", file, "--tokenizer", kEmbedded, "--sample", "3"}, 3,
                           {"has no sample 3", "--sample 0 to 2"});
  workspace.expect_failure({"preview", file, "--tokenizer", kEmbedded, "--sample", "-1"}, 2, {"--sample"});
  workspace.expect_failure({"preview", file, "--tokenizer", kEmbedded, "--count", "0"}, 2, {"--count"});
  workspace.expect_failure({"preview", file, "--tokenizer", kEmbedded, "--color", "red"}, 2, {"--color"});
  workspace.expect_failure({"preview", file, "--tokenizer", workspace.path("absent")}, 3, {"absent"});
  workspace.expect_failure({"preview", workspace.path("absent.h5"), "--tokenizer", kEmbedded}, 3, {"absent.h5"});
  workspace.expect_failure({"preview", workspace.write("text.h5", "text"), "--tokenizer", kEmbedded}, 3, {"text.h5"});
  workspace.expect_failure({"preview", file, "--tokenizer", kEmbedded, "--html", workspace.path("")}, 3, {});
  workspace.expect_failure({"preview", file, "--tokenizer", kEmbedded, "--html", file + "/page.html"}, 3,
                           {file + " is not a directory"});
}

}  // namespace
}  // namespace ossature
