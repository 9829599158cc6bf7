#include "data/records/formats.h"

#include <gtest/gtest.h>

#include "data/harmony/python_json.h"
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

TEST(Formats, Sharegpt) {
  const Conversation c = conversation_of(R"({"system": "Be brief.", "tools": "[{\"name\": \"f\"}]", "conversations": [
      {"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
      {"from": "observation", "value": "r"}, {"from": "gpt", "value": "a", "thinking": "t", "weight": 0}]})");
  ASSERT_EQ(c.messages.size(), 5u);
  EXPECT_EQ(c.messages[0].role, "system");
  EXPECT_EQ(c.messages[0].content, "Be brief.");
  EXPECT_EQ(c.messages[1].role, "user");
  ASSERT_TRUE(c.messages[2].tool_call);
  EXPECT_EQ(c.messages[2].role, "assistant");
  EXPECT_EQ(c.messages[2].content, std::nullopt);
  EXPECT_EQ(c.messages[2].tool_call->arguments, R"({"x": 1})");
  EXPECT_EQ(c.messages[3].role, "tool");
  EXPECT_EQ(c.messages[3].name, "f");
  EXPECT_EQ(c.messages[4].role, "assistant");
  EXPECT_EQ(c.messages[4].thinking, "t");
  EXPECT_EQ(c.messages[4].weight, 0.0f);
  EXPECT_EQ(c.tools, R"([{"name":"f"}])");
  for (const auto& [from, role] : {std::pair{"human", "user"},
                                   {"user", "user"},
                                   {"gpt", "assistant"},
                                   {"assistant", "assistant"},
                                   {"model", "assistant"},
                                   {"chatgpt", "assistant"},
                                   {"bot", "assistant"},
                                   {"system", "system"},
                                   {"developer", "developer"},
                                   {"tool", "tool"},
                                   {"function", "tool"},
                                   {"observation", "tool"},
                                   {"function_response", "tool"}}) {
    const std::string turn = std::string(R"({"messages": [{"from": ")") + from + R"(", "value": "v"}]})";
    EXPECT_EQ(conversation_of(turn).messages.at(0).role, role) << from;
  }
}

TEST(Formats, Alpaca) {
  const Conversation c = conversation_of(
      R"({"instruction": "Translate.", "input": "chat", "output": "cat", "system": "s", "history": [["q", "a"]], "text": "all"})");
  std::vector<std::string> shown;
  for (const Message& message : c.messages) shown.push_back(message.role + ": " + message.content.value());
  EXPECT_EQ(shown, (std::vector<std::string>{"system: s", "user: q", "assistant: a", "user: Translate.\n\nchat",
                                             "assistant: cat"}));
  EXPECT_EQ(conversation_of(R"({"instruction": "i", "input": "", "output": "o"})").messages.at(0).content, "i");
  EXPECT_EQ(conversation_of(R"({"instruction": "i", "context": "c", "response": "o", "category": "x"})")
                .messages.at(0)
                .content,
            "i\n\nc");
}

TEST(Formats, PairsUnderTheirOtherNames) {
  for (const char* line :
       {R"({"prompt": "q", "response": "a"})", R"({"question": "q", "answer": "a"})",
        R"({"query": "q", "response": "a"})", R"({"prompt": "q", "completion": "a", "answer": "another", "id": 7})",
        R"({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]})",
        R"({"prompt": [{"role": "user", "content": "q"}], "completion": "a", "messages": null})"}) {
    const Conversation c = conversation_of(line);
    ASSERT_EQ(c.messages.size(), 2u) << line;
    EXPECT_EQ(c.messages[0].content, "q") << line;
    EXPECT_EQ(c.messages[1].content, "a") << line;
  }
  expect_data_error([] { (void)parse_sample(R"({"prompt": "q", "response": "a", "answer": "b"})"); },
                    "both response and answer are given; say which is meant (--map completion=response)");
}

TEST(Formats, MessagesUnderConversationsAndTheirHeaders) {
  const Conversation c =
      conversation_of(R"({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a",
      "channel": "commentary", "recipient": "browser.search", "content_type": "json"}], "knowledge_cutoff": "2025-01"})");
  ASSERT_EQ(c.messages.size(), 2u);
  EXPECT_EQ(c.messages[1].channel, "commentary");
  EXPECT_EQ(c.messages[1].recipient, "browser.search");
  EXPECT_EQ(c.messages[1].content_type, "json");
  EXPECT_EQ(c.knowledge_cutoff, "2025-01");
}

TEST(Formats, RenderedHarmonyIsToldByItsFirstToken) {
  for (const char* line : {R"({"text": "<|start|>user"})", R"({"harmony": "<|start|>user", "text": "x"})"}) {
    EXPECT_EQ(std::get<HarmonyText>(parse_sample(line)).text, "<|start|>user");
  }
  EXPECT_EQ(std::get<std::string>(parse_sample(R"({"text": "<|start|>user"})", {.format = DataFormat::kText})),
            "<|start|>user");
}

TEST(Formats, AFileHasTheDialectOfItsFirstRecordThatHasAny) {
  const auto record = [](const std::string& text, std::int64_t line, const std::string& file = "a") {
    Record result;
    result.text = text;
    result.line = line;
    result.file = file;
    return result;
  };
  SampleParser parser;
  const std::vector<Record> records = {record("{", 1),
                                       record(R"({"x": 1})", 2),
                                       record(R"({"text": "t"})", 3),
                                       record(R"({"prompt": "q", "completion": "a"})", 4),
                                       record(R"({"prompt": "q", "completion": "a"})", 1, "b"),
                                       record(R"({"text": "t", "prompt": "q", "completion": "a"})", 5)};
  parser.detect(records);
  expect_data_error([&] { (void)parser.parse(records[0]); }, "a:1: not JSON at column 2");
  expect_data_error([&] { (void)parser.parse(records[1]); }, "a:2: text is missing (found: x)");
  EXPECT_EQ(std::get<std::string>(parser.parse(records[2])), "t");
  expect_data_error(
      [&] { (void)parser.parse(records[3]); },
      "a:4: a record of prompt-completion (found: prompt, completion) in a file of text, which is what line 3 is");
  EXPECT_TRUE(std::holds_alternative<Conversation>(parser.parse(records[4])));
  EXPECT_EQ(std::get<std::string>(parser.parse(records[5])), "t");  // whatever else it has
}

TEST(Formats, TextFilesAreTextOrHarmony) {
  Record record;
  record.file = "a.txt";
  record.is_plain_text = true;
  record.text = "{\"text\": 1}";
  EXPECT_EQ(std::get<std::string>(SampleParser().parse(record)), record.text);
  expect_data_error([&] { (void)SampleParser({.format = DataFormat::kMessages}).parse(record); },
                    "a.txt:1: a text file; expected JSON lines or a JSON array of messages");
  record.text = "<|start|>user";
  EXPECT_EQ(std::get<HarmonyText>(SampleParser().parse(record)).text, record.text);
  EXPECT_EQ(std::get<std::string>(SampleParser({.format = DataFormat::kText}).parse(record)), record.text);
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
