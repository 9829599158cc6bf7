#include "data/harmony/harmony_library.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "data/harmony/harmony_conversation.h"
#include "data/records/formats.h"
#include "data/sha256.h"
#include "tests/data/errors.h"

namespace ossature {
namespace {

using nlohmann::ordered_json;

const std::filesystem::path kSource = OSSATURE_SOURCE_DIR;

/// What openai-harmony rendered; OSSATURE_HARMONY_FIXTURE names another file that make_harmony_fixture.py made.
std::ifstream open_fixture() {
  const char* other = std::getenv("OSSATURE_HARMONY_FIXTURE");
  return std::ifstream(other != nullptr ? other : kSource / "tests/data/fixtures/harmony.jsonl");
}

Harmony harmony_of(const Tokenizer& tokenizer, bool keep_analysis) {
  HarmonyOptions options;
  options.renderer = HarmonyRenderer::kHarmony;
  options.keep_analysis = keep_analysis;
  return Harmony(tokenizer, options);
}

/// Calls check(conversation, golden, key, tokens) with what we render for each key of the fixture; returns their
/// number.
template <typename Check>
int check_fixture(const Tokenizer& tokenizer, Check check) {
  const Harmony harmony = harmony_of(tokenizer, false), keeping = harmony_of(tokenizer, true);
  std::ifstream in = open_fixture();
  int count = 0;
  for (std::string line; std::getline(in, line) && !testing::Test::HasFailure(); ++count) {
    const ordered_json golden = ordered_json::parse(line);
    const Conversation conversation = harmony_conversation_of(golden["conversation"]);
    SCOPED_TRACE(golden["conversation"].dump());
    check(golden, "kept", keeping.render(conversation).front().tokens);
    check(golden, "kept_prompt", keeping.render_prompt(conversation));
    check(golden, "training", harmony.render(conversation).front().tokens);
    check(golden, "prompt", harmony.render_prompt(conversation));
  }
  return count;
}

TEST(HarmonyLibrary, EqualsOpenAisLibraryOnOurFixture) {
  const Tokenizer tokenizer = Tokenizer::load(kSource / "tests/data/fixtures");
  const int count = check_fixture(tokenizer, [&](const ordered_json& golden, const char* key, const auto& tokens) {
    EXPECT_EQ(tokenizer.decode(tokens), golden[key].get<std::string>());
  });
  EXPECT_GT(count, 0);
}

TEST(HarmonyLibrary, EqualsOpenAisLibraryOnO200kHarmony) {
  if (!std::filesystem::exists(kSource / "../shared/tokenizer")) GTEST_SKIP() << "needs ../shared";
  const Tokenizer tokenizer = Tokenizer::load(kSource / "../shared/tokenizer");
  const int count = check_fixture(tokenizer, [&](const ordered_json& golden, const char* key, const auto& tokens) {
    const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(tokens[0]));
    EXPECT_EQ(sha256_hex(bytes), golden["ids"][key].template get<std::string>()) << tokenizer.decode(tokens);
  });
  EXPECT_GT(count, 0);
}

/// What is rendered of `messages` and `rest` behind the system message.
std::string rendered(const std::string& messages, const std::string& rest = "", HarmonyOptions options = {}) {
  options.renderer = HarmonyRenderer::kHarmony;
  const Tokenizer tokenizer = Tokenizer::load(kSource / "tests/data/fixtures");
  const Sample sample = parse_sample(R"({"messages": [)" + messages + "]" + rest + "}");
  const std::string text =
      tokenizer.decode(Harmony(tokenizer, options).render(std::get<Conversation>(sample)).front().tokens);
  return text.substr(text.find("<|end|>") + 7);
}

const std::string kUser = R"({"role": "user", "content": "q"})";
const std::string kUserText = "<|start|>user<|message|>q<|end|>";

TEST(HarmonyLibrary, TranslatesTheMessagesOfOtherApis) {
  struct Case {
    std::string messages, rest, expected;
  };
  const std::string call = R"({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1}}])";
  const std::string call_text =
      "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\": 1}<|call|>";
  const std::string functions =
      "\n\n# Tools\n\n## functions\n\nnamespace functions {\n\n// d\ntype f = () => any;\n\n} // namespace functions";
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}])";
  const std::vector<Case> cases = {
      {kUser + R"(, {"role": "assistant", "thinking": "t", "content": "a"})", "",
       kUserText + "<|start|>assistant<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|"
                   "message|>a<|return|>"},
      {kUser + R"(, {"role": "assistant", "thinking": "", "content": "a"})", "",
       kUserText + "<|start|>assistant<|channel|>final<|message|>a<|return|>"},
      {R"({"role": "system", "content": "s"},)" + kUser + R"(, {"role": "system", "content": "t"})", tools,
       "<|start|>developer<|message|># Instructions\n\ns" + functions + "<|end|>" + kUserText +
           "<|start|>developer<|message|># Instructions\n\nt<|end|>"},
      {kUser, tools, "<|start|>developer<|message|>" + functions.substr(2) + "<|end|>" + kUserText},
      {R"({"role": "system", "content": ""},)" + kUser, "", kUserText},
      {kUser + "," + call + R"(, "thinking": "t", "content": "Wait."}, {"role": "tool", "content": "r"})", "",
       kUserText +
           "<|start|>assistant<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>commentary<|message|>"
           "Wait.<|end|>" +
           call_text + "<|start|>functions.f to=assistant<|channel|>commentary<|message|>r<|end|>"},
      {kUser + "," + call + R"(}, {"role": "tool", "name": "functions.f", "content": {"x": [1]}})", "",
       kUserText + call_text + "<|start|>functions.f to=assistant<|channel|>commentary<|message|>{\"x\": [1]}<|end|>"},
      {kUser +
           R"(, {"role": "assistant", "channel": "analysis", "content": "t"}, {"role": "assistant", "channel": "final", "content": "a"})",
       "",
       kUserText + "<|start|>assistant<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|"
                   "message|>a<|return|>"},
      {kUser +
           R"(, {"role": "assistant", "recipient": "python", "content_type": "code", "content": "1"}, {"role": "tool", "name": "python", "content": "1"})",
       R"(, "builtin_tools": ["python"])",
       kUserText + "<|start|>assistant to=python<|channel|>analysis code<|message|>1<|call|><|start|>python "
                   "to=assistant<|channel|>analysis<|message|>1<|end|>"},
      {kUser + R"(, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x y", "content_type": "code"}]})",
       "", kUserText + "<|start|>assistant to=functions.f<|channel|>commentary code<|message|>\"x y\"<|call|>"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.messages);
    EXPECT_EQ(rendered(c.messages, c.rest), c.expected);
  }
}

TEST(HarmonyLibrary, ASamplesOwnSettingsWin) {
  HarmonyOptions options;
  options.renderer = HarmonyRenderer::kHarmony;
  options.date = "2026-01-15";
  options.knowledge_cutoff = "2030-01";
  options.model_identity = "Me.";
  options.reasoning_effort = "high";
  const Harmony harmony(Tokenizer::load(kSource / "tests/data/fixtures"), options);
  const auto system_of = [&](const Conversation& conversation) {
    const std::string text = harmony.tokenizer().decode(harmony.render_prompt(conversation));
    return text.substr(0, text.find("\n\n# Valid"));
  };
  const std::string messages = R"({"messages": [{"role": "user", "content": "q"}])";
  EXPECT_EQ(system_of(std::get<Conversation>(parse_sample(messages + "}"))),
            "<|start|>system<|message|>Me.\nKnowledge cutoff: 2030-01\nCurrent date: 2026-01-15\n\nReasoning: high");
  EXPECT_EQ(
      system_of(std::get<Conversation>(parse_sample(
          messages +
          R"(, "model_identity": "You.", "knowledge_cutoff": "2020-02", "date": "2021-03-04", "reasoning_effort": "low"})"))),
      "<|start|>system<|message|>You.\nKnowledge cutoff: 2020-02\nCurrent date: 2021-03-04\n\nReasoning: low");
  const auto own = [&](const char* content) {
    return system_of(harmony_conversation_of(ordered_json::parse(
        std::string(R"({"messages": [{"role": "system", "content": [{"type": "system_content")") + content + "}]}]}")));
  };
  EXPECT_EQ(own(""),
            "<|start|>system<|message|>Me.\nKnowledge cutoff: 2030-01\nCurrent date: 2026-01-15\n\nReasoning: high");
  EXPECT_EQ(
      own(R"(, "model_identity": "You.", "conversation_start_date": null, "knowledge_cutoff": null, "reasoning_effort": "Low")"),
      "<|start|>system<|message|>You.\n\nReasoning: low");
}

TEST(HarmonyLibrary, RefusesMessagesThatDoNotSayEnough) {
  const auto expect_refused = [](const std::string& messages, const std::string& reason, const std::string& rest = "") {
    SCOPED_TRACE(messages);
    expect_data_error([&] { (void)rendered(messages, rest); }, reason);
  };
  expect_refused(kUser + R"(, {"role": "assistant", "thinking": "t"})", "message 2: neither content nor tool_calls");
  expect_refused(R"({"role": "user"})", "message 1: no content");
  expect_refused(kUser + R"(, {"role": "tool", "content": "r"})", "message 2: role tool, but no call");
  expect_refused(
      kUser +
          R"(, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}, {"role": "user", "content": "q"}, {"role": "tool", "name": "g", "content": "r"})",
      "message 4: a result of \"g\", which was not called");
  const auto tools = [](const std::string& function) { return R"(, "tools": [{"function": )" + function + "}]"; };
  expect_refused(kUser, "\"description\" is no text", tools(R"({"name": "f", "description": 3})"));
  expect_refused(kUser, "\"parameters\" is no object", tools(R"({"name": "f", "parameters": []})"));
  std::string schema = "{}";
  for (int i = 0; i < 100; ++i) schema = R"({"type": "array", "items": )" + schema + "}";
  expect_refused(kUser, "nested more than 64 times", tools(R"({"name": "f", "parameters": )" + schema + "}"));
}

TEST(HarmonyLibrary, IsRefusedByTheChatTemplateThatHasNoRoomForIt) {
  const Harmony harmony(Tokenizer::load(kSource / "tests/data/fixtures"), HarmonyOptions{});
  const auto expect_refused = [&](const Conversation& conversation, const std::string& reason) {
    expect_data_error([&] { (void)harmony.render(conversation); }, reason);
  };
  expect_refused(harmony_conversation_of(ordered_json::parse(R"({"messages": [{"role": "user", "content": "q"}]})")),
                 "render with --renderer harmony");
  expect_refused(
      std::get<Conversation>(parse_sample(
          R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t", "channel": "analysis"}]})")),
      "message 2: channel is \"analysis\", for which the chat template has no room");
  HarmonyOptions options;
  options.keep_analysis = true;
  expect_data_error([&] { Harmony(harmony.tokenizer(), options); }, "--renderer harmony");
}

}  // namespace
}  // namespace ossature
