#include "data/prepare/lint.h"

#include <gtest/gtest.h>

#include <set>

#include "data/harmony/harmony_conversation.h"
#include "data/records/formats.h"
#include "tests/data/made_conversations.h"

namespace ossature {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer result = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return result;
}

HarmonyOptions library(LearnedTurns turns = LearnedTurns::kAll) {
  HarmonyOptions options;
  options.renderer = HarmonyRenderer::kHarmony;
  options.learn.turns = turns;
  return options;
}

SampleLint lint_of(const Conversation& conversation, const HarmonyOptions& options = library()) {
  return lint(conversation, Harmony(tokenizer(), options).render(conversation), options);
}

std::set<std::string_view> names_of(const SampleLint& sample) {
  std::set<std::string_view> names;
  for (std::size_t k = 0; k < kNumLintKinds; ++k) {
    if (sample.has(static_cast<LintKind>(k))) names.insert(name_of(static_cast<LintKind>(k)));
  }
  return names;
}

Conversation messages(const std::string& list) {
  return std::get<Conversation>(parse_sample("{\"messages\": [" + list + "]}"));
}

const std::string kUser = R"({"role": "user", "content": "q"})";
const std::string kAnswer = R"({"role": "assistant", "content": "a"})";
const std::string kThought = R"({"role": "assistant", "thinking": "t", "content": "a"})";
const std::string kCall = R"({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]})";
const std::string kResult = R"({"role": "tool", "content": "r"})";

TEST(Lint, FindsWhatASampleHas) {
  struct Case {
    std::string list;
    std::set<std::string_view> expected;
  };
  const std::vector<Case> cases = {
      {kUser + "," + kAnswer, {}},
      {R"({"role": "system", "content": "s"},)" + kUser + "," + kCall + "," + kResult + "," + kThought, {}},
      {kUser + "," + kCall, {"no-final"}},
      {kUser, {"nothing-learned", "ends-in-user"}},
      {kUser + R"(, {"role": "assistant", "content": "a", "train": false})", {"nothing-learned"}},
      {kUser + R"(, {"role": "assistant", "content": " \n"})", {"empty-answer"}},
      {kUser + R"(, {"role": "assistant", "content": "a<|return|>"})", {"markup"}},
      {R"({"role": "user", "content": "<|im_start|>x"},)" + kAnswer, {"markup"}},
      {R"({"role": "user", "content": "a <| b |> <|> <|A B|>"},)" + kAnswer, {}},
      {kUser + "," + kUser + "," + kAnswer, {"role-order"}},
      {kAnswer + "," + kUser + "," + kThought, {"role-order", "several-turns"}},
      {kUser + "," + kAnswer + "," + kAnswer, {"role-order", "several-turns"}},
      {kUser + R"(, {"role": "system", "content": "s"},)" + kAnswer, {"late-instructions"}},
      {kUser + "," + kCall + "," + kAnswer, {"unanswered-call"}},
      {kUser + "," + kCall + "," + kUser + "," + kAnswer, {"unanswered-call"}},
      {kUser + "," + kCall + "," + kCall + "," + kResult + "," + kResult + "," + kAnswer, {}},
      {kUser + "," + kCall + "," + kResult, {"no-final", "ends-in-result"}},
      {kUser + "," + kCall + "," + kResult + "," + kResult + "," + kAnswer, {"result-without-call"}},
      {kUser + "," + kAnswer + "," + kUser, {"ends-in-user"}},
      {kUser + "," + kThought + "," + kUser + "," + kAnswer, {"dropped-thinking", "several-turns"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.list);
    EXPECT_EQ(names_of(lint_of(messages(c.list))), c.expected);
  }
}

TEST(Lint, DependsOnTheTurnsThatAreLearned) {
  const Conversation conversation = messages(kUser + "," + kThought + "," + kUser + "," + kThought);
  EXPECT_TRUE(names_of(lint_of(conversation, library(LearnedTurns::kLast))).empty());
  EXPECT_TRUE(names_of(lint_of(conversation, library(LearnedTurns::kExpand))).empty());
  // The chat template leaves out what the assistant thought before it called.
  HarmonyOptions chat_template;
  chat_template.learn.turns = LearnedTurns::kLast;
  const Conversation call =
      messages(kUser + R"(, {"role": "assistant", "thinking": "t", "tool_calls": [{"name": "f", "arguments": {}}]},)" +
               kResult + "," + kAnswer);
  EXPECT_EQ(names_of(lint_of(call, chat_template)), std::set<std::string_view>{"dropped-thinking"});
}

TEST(Lint, FindsWhatAConversationOfTheLibraryLacks) {
  const auto of = [](const char* text) {
    return names_of(lint_of(harmony_conversation_of(nlohmann::ordered_json::parse(text))));
  };
  EXPECT_EQ(
      of(R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t", "channel": "analysis"}]})"),
      (std::set<std::string_view>{"no-final", "no-system-message"}));
  EXPECT_EQ(
      of(R"({"messages": [{"role": "system", "content": [{"type": "system_content"}]}, {"role": "user", "content": "q"},
                                {"role": "assistant", "content": "t", "channel": "analysis"}, {"role": "assistant", "content": "a", "channel": "final"}]})"),
      std::set<std::string_view>{});
}

TEST(Lint, LooksAtTextToo) {
  const Harmony harmony(tokenizer(), library());
  EXPECT_EQ(names_of(lint_text("<|start|>user", harmony.render_text("<|start|>user"))),
            std::set<std::string_view>{"markup"});
  EXPECT_EQ(names_of(lint_text("a", harmony.render_text("a"))), std::set<std::string_view>{"nothing-learned"});
  const std::string text = "<|start|>user<|message|>q<|end|><|start|>assistant<|channel|>analysis<|message|>t<|end|>";
  const SampleLint sample = lint_harmony_text(text, harmony.render_harmony_text(text));
  EXPECT_EQ(names_of(sample), (std::set<std::string_view>{"no-final", "no-system-message"}));
  EXPECT_TRUE(sample.has_thinking);
}

TEST(Lint, CountsAndKeepsTheFirstFewSources) {
  Lint all;
  const SampleLint bad = lint_of(messages(kUser + "," + kCall));
  for (int i = 1; i <= 7; ++i) {
    SampleLint sample = bad;
    sample.hash = static_cast<std::uint64_t>(i);
    all.add(sample, "a.jsonl:" + std::to_string(i));
  }
  const auto findings = all.findings();
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].kind, LintKind::kNoFinal);
  EXPECT_EQ(findings[0].count, 7);
  EXPECT_EQ(findings[0].sources,
            (std::vector<std::string>{"a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"}));
}

TEST(Lint, TellsWhatShowsAcrossSamples) {
  Lint all;
  all.add(lint_of(messages(kUser + "," + kThought)), "a:1");
  EXPECT_TRUE(all.findings().empty());
  all.add(lint_of(messages(kUser + "," + kAnswer)), "a:2");
  all.add(lint_of(messages(kUser + "," + kThought)), "a:3");
  const auto findings = all.findings();
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].kind, LintKind::kThinkingInSome);
  EXPECT_EQ(findings[0].sources, std::vector<std::string>{"a:2"});
  EXPECT_EQ(findings[1].kind, LintKind::kDuplicate);
  EXPECT_EQ(findings[1].sources, std::vector<std::string>{"a:3"});
}

TEST(Lint, RemembersAsManySamplesAsItSays) {
  Lint all;
  SampleLint sample;
  const auto add = [&](std::uint64_t i) {
    sample.hash = i * 0x9e3779b97f4a7c15u;
    all.add(sample, "");
  };
  const auto count = [&] { return all.findings().empty() ? 0 : all.findings()[0].count; };
  for (std::uint64_t i = 1; i <= Lint::kMostRemembered + 100; ++i) add(i);
  EXPECT_EQ(count(), 0);
  for (std::uint64_t i = 1; i <= Lint::kMostRemembered + 100; i += 1000) add(i);
  EXPECT_EQ(count(), static_cast<std::int64_t>((Lint::kMostRemembered + 999) / 1000));
  add(Lint::kMostRemembered + 50);
  EXPECT_EQ(count(), static_cast<std::int64_t>((Lint::kMostRemembered + 999) / 1000));
}

TEST(Lint, EachKindHasItsWords) {
  std::set<std::string_view> names;
  for (std::size_t k = 0; k < kNumLintKinds; ++k) {
    const auto kind = static_cast<LintKind>(k);
    names.insert(name_of(kind));
    EXPECT_TRUE(explanation_of(kind).ends_with('.') && advice_of(kind).ends_with('.')) << name_of(kind);
  }
  EXPECT_EQ(names.size(), kNumLintKinds);
}

TEST(Lint, SurvivesRandomConversations) {
  ConversationMaker maker(3);
  Lint all;
  for (int i = 0; i < 2000; ++i) all.add(lint_of(i % 2 == 0 ? maker.harmony() : maker.messages(false)), "x");
  EXPECT_GT(all.findings().size(), 10u);
}

}  // namespace
}  // namespace ossature
