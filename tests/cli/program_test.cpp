// What every command shares: help, version, how wrong usage is answered.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/cli/run_program.h"

namespace ossature {
namespace {

const std::vector<std::string> kCommands = {"init", "prepare", "train",   "eval",   "generate",
                                            "chat", "export",  "inspect", "recipes"};

struct Failure {
  std::vector<std::string> arguments;
  int exit_code;
  std::string message;  // how standard error goes on after "ossature: error: "
};

class ProgramFailure : public testing::TestWithParam<Failure> {};

TEST_P(ProgramFailure, SaysWhyOnceAndExits) {
  const ProgramResult result = run_program(GetParam().arguments);
  EXPECT_EQ(result.exit_code, GetParam().exit_code);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.starts_with("ossature: error: " + GetParam().message)) << result.err;
  EXPECT_EQ(result.err.find("ossature: error:", 1), std::string::npos) << result.err;
  EXPECT_TRUE(result.err.ends_with('\n'));
}

INSTANTIATE_TEST_SUITE_P(
    Usage, ProgramFailure,
    testing::Values(Failure{{}, 2, "A subcommand is required (see ossature --help)"}, Failure{{"frobnicate"}, 2, ""},
                    Failure{{"recipes"}, 2, "A subcommand is required (see ossature recipes --help)"},
                    Failure{{"recipes", "ls", "extra"}, 2, ""},
                    Failure{{"recipes", "cp", "quickstart"}, 2, "FILE is required"},
                    Failure{{"recipes", "cp", "no-such-recipe", "x.yaml"},
                            2,
                            "NAME: no recipe \"no-such-recipe\"; expected one of "}));

class Help : public testing::TestWithParam<std::string> {};

TEST_P(Help, IsOnStandardOutput) {
  const ProgramResult result = run_program({GetParam(), "--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_NE(result.out.find("Usage: "), std::string::npos) << result.out;
  EXPECT_NE(result.out.find(GetParam()), std::string::npos) << result.out;
}

INSTANTIATE_TEST_SUITE_P(Commands, Help, testing::ValuesIn(kCommands),
                         [](const auto& instance) { return instance.param; });

TEST(Program, HelpListsEveryCommand) {
  const ProgramResult result = run_program({"--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  for (const std::string& command : kCommands)
    EXPECT_NE(result.out.find("\n  " + command), std::string::npos) << command;
}

TEST(Program, Version) {
  const ProgramResult result = run_program({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out.substr(0, 9), "ossature ");
}

TEST(Program, FullDiskUnderStandardOutput) {
  const ProgramResult result = run_program({"recipes", "keys"}, {.out_file = "/dev/full"});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_EQ(result.err, "ossature: error: standard output cannot be written\n");
}

}  // namespace
}  // namespace ossature
