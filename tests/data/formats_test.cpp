#include "data/formats.h"

#include <gtest/gtest.h>

#include "data/python_json.h"
#include "tests/data/errors.h"

namespace ossature {
namespace {

Conversation conversation_of(const std::string& line, std::optional<DataFormat> format = std::nullopt) {
  return std::get<Conversation>(parse_sample(line, {.format = format}));
}

TEST(Formats, KeysTellTheDialect) {
  EXPECT_EQ(conversation_of(R"({"messages": [{"role": "user", "content": "u"}]})").messages.size(), 1u);
  EXPECT_EQ(conversation_of(R"({"prompt": "p", "completion": "c"})").messages.size(), 2u);
  EXPECT_EQ(std::get<std::string>(parse_sample(R"({"text": "t"})")), "t");
  expect_data_error([] { (void)parse_sample(R"({"ask": "q", "reply": "a"})"); }, "found the keys ask, reply; expected");
  expect_data_error([] { (void)parse_sample("{}"); }, "(none)");
}

TEST(Formats, AnUnknownNameOfADialectIsAnError) {
  EXPECT_EQ(data_format("auto"), std::nullopt);
  EXPECT_EQ(data_format("text"), DataFormat::kText);
  expect_data_error([] { (void)data_format("csv"); }, "csv");
}

TEST(Formats, MessagesCarryThinkingCallsAndWeights) {
  const Conversation c = conversation_of(
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [{"type": "function", "id": "1",
       "function": {"name": "f", "arguments": "{\"b\": 1.0, \"a\": [null]}"}}], "weight": 0.25},
      {"role": "tool", "name": "f", "content": {"x": 1}}, {"role": "assistant", "content": "c", "tool_calls": null, "thinking": "t"}],
      "tools": [{"name": "f"}], "reasoning_effort": "low", "model_identity": "Me.", "builtin_tools": ["python"], "date": "2020-02-02"})");
  ASSERT_EQ(c.messages.size(), 4u);
  EXPECT_EQ(c.messages[0].content, "ab");
  EXPECT_EQ(c.messages[1].content, std::nullopt);
  EXPECT_EQ(c.messages[1].thinking, "r");
  ASSERT_TRUE(c.messages[1].tool_call);
  EXPECT_EQ(c.messages[1].tool_call->name, "f");
  EXPECT_EQ(c.messages[1].tool_call->arguments, R"({"b": 1.0, "a": [null]})");  // not quoted twice
  EXPECT_EQ(c.messages[1].tool_call->content_type, "json");
  EXPECT_EQ(c.messages[1].weight, 0.25f);
  EXPECT_EQ(c.messages[2].content, R"({"x": 1})");
  EXPECT_TRUE(c.messages[2].content_is_json);
  EXPECT_EQ(c.messages[2].name, "f");
  EXPECT_FALSE(c.messages[3].tool_call);
  EXPECT_EQ(c.messages[3].weight, 1.0f);
  EXPECT_EQ(c.tools, R"([{"name":"f"}])");
  EXPECT_EQ(c.reasoning_effort, "low");
  EXPECT_EQ(c.model_identity, "Me.");
  EXPECT_EQ(c.builtin_tools, (std::vector<std::string>{"python"}));
  EXPECT_EQ(c.date, "2020-02-02");
}

TEST(Formats, OnlyTheCompletionIsLearned) {
  const Conversation plain = conversation_of(R"({"prompt": "p", "completion": "c"})");
  EXPECT_EQ(plain.messages[0].role, "user");
  EXPECT_EQ(plain.messages[1].role, "assistant");
  const Conversation lists =
      conversation_of(R"({"prompt": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"},
      {"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "c"}]})");
  ASSERT_EQ(lists.messages.size(), 4u);
  EXPECT_EQ(lists.messages[1].weight, 0.0f);
  EXPECT_EQ(lists.messages[3].weight, 1.0f);
}

TEST(Formats, ErrorsSayWhatIsWrong) {
  const auto expect_error = [](const std::string& line, const std::string& part) {
    expect_data_error([&] { (void)parse_sample(line, {.format = DataFormat::kMessages}); }, part);
  };
  const auto message = [](const std::string& rest) { return R"({"messages": [{"role": "assistant")" + rest + "}]}"; };
  expect_error("{", "not JSON");
  expect_error("{\"messages\": \"\xff\"}", "not JSON");
  expect_error(R"({"messages": "\ud800"})", "not JSON");
  expect_error("[]", "not a JSON object");
  expect_error("{}", "messages is missing (found: (none)); expected a list");
  expect_error(R"({"messages": {}})", "messages is an empty object; expected a list");
  expect_error(R"({"messages": [1]})", "message 1");
  expect_error(R"({"messages": [{"content": "x"}]})", "role is missing");
  expect_error(message(R"(, "content": 7)"), "content is 7; expected a string");
  expect_error(message(R"(, "content": [{"type": "image_url"}])"), "content[0] is a part of type \"image_url\"");
  expect_error(message(R"(, "tool_calls": [{"name": "f"}, {"name": "g"}])"),
               "2 tool calls, and no result of call 1 (f)");
  expect_error(message(R"(, "tool_calls": [{"arguments": {}}])"), "the function's name is missing (found: arguments)");
  expect_error(message(R"(, "tool_calls": "f")"), "tool_calls");
  expect_error(message(R"(, "weight": -1)"), "weight is -1");
  expect_error(message(R"(, "weight": "1")"), "weight is the text \"1\"; expected a number");
  expect_error(message(R"(, "train": 1)"), "train");
  expect_error(R"({"messages": [{"role": "user", "content": "x", "train": true}]})", "only the assistant");
  expect_error(R"({"messages": [{"role": "user", "content": "u"}], "reasoning_effort": "max"})", "max");
  expect_error(R"({"messages": [{"role": "user", "content": "u"}], "builtin_tools": ["shell"]})", "shell");
  expect_error(R"({"messages": [{"role": "user", "content": "u"}], "tools": 5})", "tools");
  expect_data_error([] { (void)parse_sample(R"({"prompt": "p"})", {.format = DataFormat::kPromptCompletion}); },
                    "completion");
  expect_data_error([] { (void)parse_sample(R"({"text": 1})", {.format = DataFormat::kText}); }, "text");
}

TEST(PythonJson, NumbersAreAsPythonWritesThem) {  // each right side is what json.dumps gives
  const auto text = [](double value) { return python_json(nlohmann::ordered_json(value)); };
  EXPECT_EQ(text(0.0), "0.0");
  EXPECT_EQ(text(-0.0), "-0.0");
  EXPECT_EQ(text(1.0), "1.0");
  EXPECT_EQ(text(0.1), "0.1");
  EXPECT_EQ(text(1e15), "1000000000000000.0");
  EXPECT_EQ(text(1e16), "1e+16");
  EXPECT_EQ(text(1e-4), "0.0001");
  EXPECT_EQ(text(1e-5), "1e-05");
  EXPECT_EQ(text(1.5e300), "1.5e+300");
  EXPECT_EQ(text(5e-324), "5e-324");
  EXPECT_EQ(python_json(nlohmann::ordered_json::parse(R"({"z": [1, -2, true, null], "a": {}, "é\u0001": "\"\\\n"})")),
            R"({"z": [1, -2, true, null], "a": {}, "é\u0001": "\"\\\n"})");
}

}  // namespace
}  // namespace ossature
