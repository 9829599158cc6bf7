#include "data/records/tool_calls.h"

#include <gtest/gtest.h>

#include "data/records/formats.h"
#include "tests/data/errors.h"

namespace ossature {
namespace {

using Lines = std::vector<std::string>;

/// "role name(arguments) content" of each message.
Lines shown(const std::string& messages) {
  const auto sample = parse_sample(R"({"messages": [{"role": "user", "content": "q"}, )" + messages + "]}");
  Lines lines;
  for (const Message& message : std::get<Conversation>(sample).messages) {
    std::string line = message.role;
    if (message.thinking) line += " [" + *message.thinking + "]";
    if (message.tool_call) line += " " + message.tool_call->name + "(" + message.tool_call->arguments + ")";
    if (message.role == "tool") line += " " + message.name;
    if (message.content) line += ": " + *message.content;
    lines.push_back(line);
  }
  lines.erase(lines.begin());
  return lines;
}

const std::string kTwo = R"({"role": "assistant", "content": null, "reasoning_content": "t", "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}}]})";

TEST(ToolCalls, EachIsFollowedByItsResult) {
  const Lines expected = {"assistant [t] f({\"a\": 1})", "tool f: r1", "assistant g({})", "tool g: r2", "assistant: a"};
  const std::string answer = R"(, {"role": "assistant", "content": "a"})";
  EXPECT_EQ(shown(kTwo + R"(, {"role": "tool", "tool_call_id": "c2", "content": "r2"},
                              {"role": "tool", "tool_call_id": "c1", "content": "r1"})" +
                  answer),
            expected);
  EXPECT_EQ(shown(kTwo + R"(, {"role": "tool", "name": "g", "content": "r2"},
                              {"role": "tool", "name": "functions.f", "content": "r1"})" +
                  answer),
            (Lines{expected[0], "tool functions.f: r1", expected[2], expected[3], expected[4]}));
  EXPECT_EQ(
      shown(kTwo +
            R"(, {"role": "tool", "content": "r1"}, {"role": "tool", "content": [{"type": "text", "text": "r2"}]})" +
            answer),
      expected);
}

TEST(ToolCalls, TheLastMayLackItsResult) {
  EXPECT_EQ(shown(kTwo + R"(, {"role": "tool", "tool_call_id": "c1", "content": "r1"})"),
            (Lines{"assistant [t] f({\"a\": 1})", "tool f: r1", "assistant g({})"}));
}

TEST(ToolCalls, OneFunctionCalledTwice) {
  EXPECT_EQ(
      shown(
          R"({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {"x": 2}}]},
                     {"role": "tool", "name": "f", "content": "r1"}, {"role": "tool", "name": "f", "content": "r2"})"),
      (Lines{"assistant f({\"x\": 1})", "tool f: r1", "assistant f({\"x\": 2})", "tool f: r2"}));
}

TEST(ToolCalls, IdsMayRepeatFromTurnToTurn) {
  const std::string turn =
      R"({"role": "assistant", "tool_calls": [{"id": "0", "name": "f"}]}, {"role": "tool", "tool_call_id": "0", "content": "r"})";
  EXPECT_EQ(shown(turn + ", " + turn), (Lines{"assistant f({})", "tool f: r", "assistant f({})", "tool f: r"}));
}

TEST(ToolCalls, EarlierApi) {
  EXPECT_EQ(shown(R"({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
                     {"role": "function", "name": "f", "content": "r"})"),
            (Lines{"assistant f({})", "tool f: r"}));
}

TEST(ToolCalls, ResultsOfACallOfAnotherNameAreRefused) {
  expect_data_error([] { shown(kTwo + R"(, {"role": "tool", "name": "h", "content": "r"})"); },
                    "message 3: a result of \"h\", which the calls before it do not have");
  expect_data_error(
      [] {
        shown(
            kTwo +
            R"(, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, {"role": "tool", "content": "3"})");
      },
      "message 5: a second result of the call of f");
  expect_data_error(
      [] { shown(R"({"role": "assistant", "tool_calls": [{"id": "0", "name": "f"}, {"id": "0", "name": "g"}]})"); },
      "message 2: two calls with the id \"0\"");
  expect_data_error([] { shown(R"({"role": "tool", "tool_call_id": "c9", "content": "r"})"); },
                    "message 2: tool_call_id \"c9\" answers no call");
}

}  // namespace
}  // namespace ossature
