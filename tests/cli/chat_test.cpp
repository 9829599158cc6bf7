// `ossature chat` on a pseudo-terminal and on pipes, and `generate --compare`.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <utility>

#include "data/utf8.h"
#include "tests/cli/pseudo_terminal.h"
#include "tests/cli/workspace.h"

namespace ossature {
namespace {

const std::string kQuestion = "What is a chat robot?";

std::vector<std::string> chat(const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {"chat", "--model", kEmbedded, "--date", "none"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// Without the carriage returns that a terminal adds.
std::string plain(std::string text) {
  std::erase(text, '\r');
  return text;
}

TEST(ChatOnATerminal, AnswersAsGenerateDoesAndKeepsTheConversation) {
  const std::string reply = output_of({"generate", "--model", kEmbedded, "--date", "none", "--prompt", kQuestion});
  const Workspace workspace;
  const std::string file = workspace.write(
      "chat.jsonl", nlohmann::json{{"messages",
                                    {{{"role", "user"}, {"content", kQuestion}},
                                     {{"role", "assistant"}, {"content", reply.substr(0, reply.size() - 1)}},
                                     {{"role", "user"}, {"content", "And you?"}}}}}
                            .dump() +
                        "\n");
  const std::string second = output_of({"generate", "--model", kEmbedded, "--date", "none", "--messages", file});

  PseudoTerminal terminal(chat());
  (void)terminal.until("> ");
  terminal.type(kQuestion + "\n");
  EXPECT_EQ(plain(terminal.until("\n> ")), kQuestion + "\n" + reply + "> ");
  terminal.type("And you?\n");
  EXPECT_EQ(plain(terminal.until("\n> ")), "And you?\n" + second + "> ") << "the cache gives what a whole prompt gives";
  terminal.type("/reset\n");
  (void)terminal.until("a new conversation\r\n> ");
  terminal.type("What is a \\\n");
  (void)terminal.until("... ");
  terminal.type(
      "\x15"
      "chat robot?\n");  // Ctrl-U: the terminal edits lines
  (void)terminal.until("\n> ");
  terminal.type("/reset\n");
  (void)terminal.until("a new conversation\r\n> ");
  terminal.type(kQuestion + "\n");
  EXPECT_EQ(plain(terminal.until("\n> ")), kQuestion + "\n" + reply + "> ") << "as at first";
  terminal.type("/quit\n");
  int exit_code = -1;
  (void)terminal.rest(exit_code);
  EXPECT_EQ(exit_code, 0);
}

TEST(ChatOnATerminal, ControlCStopsTheReplyAndNotTheProgram) {
  PseudoTerminal terminal(chat({"--temperature", "100", "--max-new-tokens", "1500"}));
  (void)terminal.until("> ");
  terminal.type("\x03");
  (void)terminal.until("> ");
  terminal.type("/help\n");
  (void)terminal.until("/reset");
  (void)terminal.until("\n> ");
  // A key that comes before the program has read the line stops the line instead; then it is typed again.
  std::string said;
  for (int n = 0; n < 20 && said.find("note: stopped\r\n") == std::string::npos; ++n) {
    terminal.type("Talk.\n");
    std::this_thread::sleep_for(std::chrono::milliseconds(100 + 50 * n));
    terminal.type("\x03");
    said = terminal.until("\n> ");
  }
  EXPECT_NE(said.find("note: stopped\r\n"), std::string::npos) << said;
  terminal.type("/nothing\n");
  (void)terminal.until("no command /nothing");
  (void)terminal.until("> ");
  terminal.type("\x04");
  int exit_code = -1;
  (void)terminal.rest(exit_code);
  EXPECT_EQ(exit_code, 0);
}

TEST(ChatOnATerminal, NothingActsOnIt) {
  // At a very high temperature all of the vocabulary comes, control characters and single bytes among it.
  PseudoTerminal terminal(chat({"--temperature", "1000", "--max-new-tokens", "400", "--seed", "3"}));
  (void)terminal.until("> ");
  terminal.type("Anything.\n/quit\n");
  int exit_code = -1;
  std::string all = terminal.rest(exit_code);
  EXPECT_EQ(exit_code, 0);
  EXPECT_EQ(valid_utf8_prefix(all), all.size());
  for (const char* dim : {"\x1b[2m", "\x1b[0m"}) {
    for (std::size_t at; (at = all.find(dim)) != std::string::npos;) all.erase(at, 4);
  }
  for (const char c : all) EXPECT_TRUE(static_cast<unsigned char>(c) >= 32 || c == '\n' || c == '\r' || c == '\t');
}

TEST(ChatOnPipes, RepliesAloneAreOnStandardOutput) {
  const std::string reply = output_of({"generate", "--model", kEmbedded, "--date", "none", "--prompt", kQuestion});
  const ProgramResult result = run_program(chat(), {.standard_input = kQuestion + "\n\n/reset\n" + kQuestion});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, reply + reply);
  EXPECT_EQ(result.err, "note: a new conversation\n");
  const ProgramResult strange = run_program(chat(), {.standard_input = "\xff\n"});
  EXPECT_EQ(strange.out, "");
  EXPECT_EQ(strange.err, "note: that is not UTF-8, byte 0; nothing was asked\n");
}

TEST(ChatRefuses, Arguments) {
  const Workspace workspace;
  workspace.expect_failure({"chat"}, 2, {"--model is required"});
  workspace.expect_failure(chat({"--temperature", "-1"}), 2, {"--temperature: "});
  workspace.expect_failure(chat({"--adapter", workspace.path("absent")}), 3, {workspace.path("absent")});
}

class Compare : public testing::Test {
 protected:
  void SetUp() override {
    model_ = workspace_.small_model();
    const std::string recipe = workspace_.write(
        "r.yaml",
        "base_model: " + model_ + "\noutput_dir: " + workspace_.path("run") +
            "\nlora: {r: 4, target_modules: [q_proj, o_proj]}\ndata: {train: " + workspace_.tokens(4) +
            ", sequence_length: 256}\n"
            "train: {max_steps: 2, warmup_steps: 0, gradient_accumulation_steps: 1, learning_rate: 1.0e-1}\n");
    output_of({"train", recipe});
    adapter_ = workspace_.path("run/adapter");
  }
  std::vector<std::string> generate(const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"generate", "--model",          model_, "--date", "none", "--prompt",
                                    "Hi",       "--max-new-tokens", "12"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Workspace workspace_;
  std::string model_, adapter_;
};

TEST_F(Compare, BothRepliesAreThoseOfTheirModels) {
  const auto both = json_of(generate({"--adapter", adapter_, "--compare"}));
  EXPECT_EQ(both["base"], json_of(generate({})));
  EXPECT_EQ(both["adapter"], json_of(generate({"--adapter", adapter_})));
  const std::string base = output_of(generate({"--raw"})),
                    adapted = output_of(generate({"--raw", "--adapter", adapter_}));
  EXPECT_NE(base, adapted);
  workspace_.expect_failure(generate({"--compare"}), 2, {"--compare: needs --adapter"});
}

TEST(ChatCommand, AnswersWithTheAdapter) {
  const std::string question = "Who are you?";
  const Workspace workspace;
  const std::string run = workspace.path("run");
  output_of({"train", workspace.write("r.yaml", "base_model: " + kEmbedded.string() + "\noutput_dir: " + run +
                                                    "\ndata: {train: " + workspace.tokens(24) +
                                                    ", sequence_length: 256}\ntrain: {max_steps: 6, warmup_steps: 0, "
                                                    "gradient_accumulation_steps: 2, learning_rate: 1.0e-2}\n")});
  const auto generated = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"generate", "--model", kEmbedded,         "--date",           "none",
                                          "--prompt", question,  "--show-thinking", "--max-new-tokens", "24"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  const std::string base = generated({}), adapted = generated({"--adapter", run + "/adapter"});
  ASSERT_NE(base, adapted) << "the run has changed the model";
  for (const bool with : {false, true}) {
    auto arguments = chat({"--max-new-tokens", "24"});
    if (with) arguments.insert(arguments.end(), {"--adapter", run + "/adapter"});
    const ProgramResult result = run_program(arguments, {.standard_input = question});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, with ? adapted : base);
  }
  PseudoTerminal terminal(chat({"--max-new-tokens", "24", "--adapter", run + "/adapter", "--hide-thinking"}));
  (void)terminal.until("> ");
  terminal.type(question + "\n/quit\n");
  int exit_code = -1;
  const std::string said = plain(terminal.rest(exit_code));
  EXPECT_EQ(exit_code, 0);
  const std::string reply = adapted.substr(adapted.rfind('\n', adapted.size() - 2) + 1);
  EXPECT_NE(said.find(reply), std::string::npos) << said << "\nand generate said\n" << adapted;
}

TEST_F(Compare, BesideEachOtherWhereThereIsRoom) {
  PseudoTerminal wide(generate({"--adapter", adapter_, "--compare", "--raw"}), 120);
  int exit_code = -1;
  EXPECT_NE(plain(wide.rest(exit_code)).find("-- base" + std::string(51, ' ') + " | -- adapter\n"), std::string::npos);
  EXPECT_EQ(exit_code, 0);
  PseudoTerminal narrow(generate({"--adapter", adapter_, "--compare", "--raw"}), 60);
  const std::string below = plain(narrow.rest(exit_code));
  EXPECT_NE(below.find("-- base\n"), std::string::npos) << below;
  EXPECT_NE(below.find("\n\n-- adapter\n"), std::string::npos) << below;
}

}  // namespace
}  // namespace ossature
