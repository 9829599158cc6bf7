// `ossature generate`: replies of the embedded model, what is on which stream, and what it refuses.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

const std::string kQuestion = "What is a chat robot?";

std::vector<std::string> generate(const std::vector<std::string>& more) {
  std::vector<std::string> all = {"generate", "--model", kEmbedded, "--date", "none"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST(GenerateCommand, GreedyRepliesAreEqualAndAlone) {
  const auto arguments = generate({"--prompt", kQuestion, "--temperature", "0"});
  const ProgramResult first = run_program(arguments);
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(first.err, "");
  EXPECT_GT(first.out.size(), 1U);
  EXPECT_EQ(first.out.find("<|"), std::string::npos) << first.out;
  EXPECT_EQ(output_of(arguments), first.out);
}

TEST(GenerateCommand, JsonAndRawHoldTheSameReply) {
  const std::string reply = output_of(generate({"--prompt", kQuestion}));
  const auto report = json_of(generate({"--prompt", kQuestion}));
  EXPECT_EQ(report["reply"].get<std::string>() + "\n", reply);
  EXPECT_EQ(report["finish"], "return");
  EXPECT_EQ(report["tool_calls"], nlohmann::json::array());
  const std::string raw = output_of(generate({"--prompt", kQuestion, "--raw"}));
  EXPECT_TRUE(raw.starts_with("<|start|>system<|message|>You are ChatGPT")) << raw;
  EXPECT_NE(raw.find("<|start|>user<|message|>" + kQuestion + "<|end|><|start|>assistant"), std::string::npos) << raw;
  EXPECT_TRUE(raw.ends_with("<|message|>" + report["reply"].get<std::string>() + "<|return|>\n")) << raw;
}

TEST(GenerateCommand, GgufFilesHaveTheirTokenizer) {
  const Workspace workspace;
  const std::string file = workspace.path("model.gguf");
  output_of({"export", "--model", kEmbedded, "--format", "gguf", "--out", file});
  EXPECT_EQ(output_of({"generate", "--model", file, "--date", "none", "--prompt", kQuestion, "--temperature", "0"}),
            output_of(generate({"--prompt", kQuestion, "--temperature", "0"})));
}

TEST(GenerateCommand, SeedsDecideWhatIsDrawn) {
  const auto drawn = [](const char* seed) {
    return output_of(
        generate({"--prompt", kQuestion, "--temperature", "1.5", "--raw", "--max-new-tokens", "12", "--seed", seed}));
  };
  EXPECT_EQ(drawn("1"), drawn("1"));
  EXPECT_NE(drawn("1"), drawn("2"));
}

TEST(GenerateCommand, CutRepliesAreNotedOnStandardError) {
  const ProgramResult result = run_program(generate({"--prompt", kQuestion, "--max-new-tokens", "2", "--json"}));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "note: stopped after 2 tokens; --max-new-tokens allows more\n");
  const auto report = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_EQ(report["finish"], "length");
  EXPECT_EQ(report["tokens"], 2);
}

TEST(GenerateCommand, ConversationsWithoutTheirClosingTurns) {
  const Workspace workspace;
  const std::string file = workspace.write(
      "chats.jsonl",
      R"({"messages": [{"role": "user", "content": "Alpha"}, {"role": "assistant", "content": "Known answer"}]})"
      "\n\n"
      R"({"messages": [{"role": "user", "content": "Beta"}, {"role": "assistant", "content": "Earlier answer"}, )"
      R"({"role": "user", "content": "Gamma"}]})"
      "\n");
  const std::string raw = output_of(generate({"--messages", file, "--raw", "--instructions", "Be brief."}));
  EXPECT_EQ(raw.find("Known answer"), std::string::npos) << raw;
  EXPECT_NE(raw.find("<|start|>user<|message|>Alpha<|end|><|start|>assistant<|channel|>"), std::string::npos) << raw;
  EXPECT_NE(raw.find("<|message|>Earlier answer<|end|><|start|>user<|message|>Gamma<|end|><|start|>assistant"),
            std::string::npos)
      << raw;
  EXPECT_NE(raw.find("<|start|>developer<|message|># Instructions\n\nBe brief."), std::string::npos) << raw;

  std::istringstream lines(output_of(generate({"--messages", file, "--json"})));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_TRUE(nlohmann::json::parse(line, nullptr, false).contains("reply")) << line;
  EXPECT_EQ(count, 2) << "an object a conversation";
}

TEST(GenerateCommand, SystemMessageHasDateAndEffort) {
  const std::string raw = output_of({"generate", "--model", kEmbedded, "--prompt", "Hi", "--raw", "--date",
                                     "2024-02-29", "--reasoning-effort", "high"});
  EXPECT_NE(raw.find("\nCurrent date: 2024-02-29\n"), std::string::npos) << raw;
  EXPECT_NE(raw.find("\nReasoning: high\n"), std::string::npos) << raw;
}

TEST(GenerateRefuses, Arguments) {
  const Workspace workspace;
  const std::string file = workspace.conversations(1);
  const auto refused = [&](const std::vector<std::string>& more, const std::string& mention) {
    workspace.expect_failure(generate(more), 2, {mention});
  };
  refused({"--prompt", "a", "--messages", file}, "takes one of --prompt and --messages");
  refused({}, "takes one of --prompt and --messages");
  refused({"--prompt", "a", "--reasoning-effort", "huge"}, "--reasoning-effort: huge");
  refused({"--prompt", "a", "--max-new-tokens", "0"}, "--max-new-tokens: ");
  refused({"--prompt", "a", "--seed", "-1"}, "--seed: ");
  workspace.expect_failure({"generate", "--model", kEmbedded, "--prompt", "a", "--date", "today!"}, 2,
                           {"--date: \"today!\" is not a date"});
}

TEST(GenerateRefuses, NumbersThatAreNone) {
  const Workspace workspace;
  workspace.expect_failure(generate({"--prompt", kQuestion, "--temperature", "nan"}), 2,
                           {"--temperature: nan is not a number from 0 on"});
  workspace.expect_failure(generate({"--prompt", kQuestion, "--top-p", "nan"}), 2, {"--top-p: nan is not a number"});
  workspace.expect_failure(generate({"--prompt", kQuestion, "--max-new-tokens", "0"}), 2,
                           {"--max-new-tokens: 0 is not a whole number from 1 on"});
  workspace.expect_failure(generate({"--prompt", kQuestion, "--seed", "-1"}), 2,
                           {"--seed: -1 is not a whole number from 0 on"});
  workspace.expect_failure(generate({"--prompt", kQuestion, "--raw", "--json"}), 2, {"--raw"});
}

TEST(GenerateRefuses, Inputs) {
  const Workspace workspace;
  const std::string absent = workspace.path("absent");
  fs::create_directory(workspace.path("empty"));
  workspace.expect_failure(generate({"--messages", absent}), 3, {absent + ": cannot be opened"});
  workspace.expect_failure(generate({"--messages", workspace.path("empty")}), 3,
                           {workspace.path("empty") + ": cannot be opened"});
  workspace.expect_failure(generate({"--messages", workspace.write("blank", "\n \n")}), 3,
                           {workspace.path("blank") + ": holds no conversation"});
  workspace.expect_failure(generate({"--messages", workspace.write("text", R"({"text": "Call me"})")}), 3,
                           {workspace.path("text") + ":1: plain text"});
  workspace.expect_failure(generate({"--messages", workspace.write("broken", "\n{")}), 3,
                           {workspace.path("broken") + ":2: not JSON"});
  workspace.expect_failure(generate({"--prompt", "a", "--adapter", workspace.path("empty")}), 3,
                           {workspace.path("empty")});
  workspace.expect_failure({"generate", "--model", absent, "--prompt", "a"}, 3, {absent});
}

TEST(GenerateRefuses, TokenizerLargerThanTheModel) {
  const Workspace workspace;
  const std::string tiny = workspace.path("tiny");
  output_of({"init", "tiny", "--layers", "1", "--out", tiny});
  workspace.expect_failure({"generate", "--model", tiny, "--prompt", "a"}, 3, {tiny + "/tokenizer.json"});
  fs::copy(kEmbedded / "tokenizer.json", tiny);
  workspace.expect_failure({"generate", "--model", tiny, "--prompt", "a"}, 3,
                           {"4096 ids, the model's vocab_size is 1024"});
}

}  // namespace
}  // namespace ossature
