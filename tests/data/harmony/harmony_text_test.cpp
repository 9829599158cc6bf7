#include "data/harmony/harmony_text.h"

#include <gtest/gtest.h>

#include <random>

#include "data/harmony/harmony.h"
#include "tests/data/errors.h"

namespace ossature {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer result = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return result;
}

Harmony harmony_of(LearnedTurns turns) {
  HarmonyOptions options;
  options.renderer = HarmonyRenderer::kHarmony;
  options.learn.turns = turns;
  return Harmony(tokenizer(), options);
}

std::string learned_text(const RenderedSample& sample) {
  std::string text;
  for (std::size_t i = 0; i < sample.tokens.size(); ++i) {
    if (sample.loss_weights[i] > 0.0f) text += tokenizer().bytes_of(sample.tokens[i]);
  }
  return text;
}

const std::string kUser = "<|start|>user<|message|>q<|end|>";
const std::string kAnswer = "<|start|>assistant<|channel|>final<|message|>a<|end|>";
const std::string kTools =
    "<|start|>assistant<|channel|>analysis<|message|>t<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    "<|start|>functions.f to=assistant<|channel|>commentary<|message|>r<|end|>"
    "<|start|>assistant<|channel|>final<|message|>a<|return|>";

TEST(HarmonyText, IsTokenizedAsItStandsAndTheAssistantIsLearned) {
  const auto samples = harmony_of(LearnedTurns::kAll).render_harmony_text(kUser + kAnswer + kUser + kTools + "\n");
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(tokenizer().decode(samples[0].tokens), kUser + kAnswer + kUser + kTools);
  EXPECT_EQ(learned_text(samples[0]),
            "<|channel|>final<|message|>a<|end|><|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>"
            "commentary "
            "to=functions.f <|constrain|>json<|message|>{}<|call|><|channel|>final<|message|>a<|return|>");
}

TEST(HarmonyText, TurnsAreTheLastOneOrSamplesOfTheirOwn) {
  const std::string text =
      kUser + "<|start|>assistant<|channel|>analysis<|message|>s<|end|>" + kAnswer + kUser + kTools;
  const auto last = harmony_of(LearnedTurns::kLast).render_harmony_text(text);
  ASSERT_EQ(last.size(), 1u);
  EXPECT_EQ(tokenizer().decode(last[0].tokens), text);
  EXPECT_TRUE(learned_text(last[0]).starts_with("<|channel|>analysis<|message|>t"));
  const auto each = harmony_of(LearnedTurns::kExpand).render_harmony_text(text);
  ASSERT_EQ(each.size(), 2u);
  EXPECT_EQ(learned_text(each[0]),
            "<|channel|>analysis<|message|>s<|end|><|start|>assistant<|channel|>final<|message|>a<|return|>");
  EXPECT_EQ(tokenizer().decode(each[1].tokens), kUser + kAnswer + kUser + kTools);
}

TEST(HarmonyText, MarkupThatIsNoSpecialTokenIsContent) {
  const std::string text = "<|start|>user<|message|><| <|x|> |> <|start <||><|end|>" + kAnswer;
  const auto samples = harmony_of(LearnedTurns::kAll).render_harmony_text(text);
  EXPECT_EQ(tokenizer().decode(samples[0].tokens), text);
}

TEST(HarmonyText, RefusesWhatIsNotInTheFormat) {
  struct Case {
    std::string text, expected;
  };
  const std::vector<Case> cases = {
      {"", "no text"},
      {"hello", "at byte 0: \"hello\"; expected <|start|>"},
      {" " + kUser, "at byte 0: \" \"; expected <|start|>"},
      {kUser + "x" + kUser, "at byte 32: \"x\"; expected <|start|>"},
      {kUser + "\n" + kUser, "at byte 32: white space"},
      {"<|start|>user", "at byte 13: the text ends in the header of the message at byte 0; expected <|message|>"},
      {kUser + "<|start|>assistant", "the message at byte 32"},
      {"<|start|>user<|end|>", "at byte 13: <|end|> in the header"},
      {"<|start|>user<|channel|>a<|channel|>b<|message|>c<|end|>", "at byte 25: <|channel|> in the header"},
      {"<|start|>user<|message|>q",
       "at byte 25: the text ends in the content of the message at byte 0; expected <|end|>"},
      {"<|start|>user<|message|>q<|start|>user", "at byte 25: <|start|> in the content"},
      {"<|start|>user<|message|>q<|message|>", "at byte 25: <|message|> in the content"},
      {"<|start|>user<|message|>q<|call|>", "at byte 25: <|call|> ends a message that is not the assistant's"},
      {"<|start|>robot<|message|>q<|end|>", "at byte 9: role \"robot\"; expected system"},
      {"<|start|><|message|>q<|end|>", "at byte 9: role \"\""},
      {kUser + "<|start|>assistant<|message|>a<|return|>" + kUser, "after <|return|>"},
      {"<|start|>user<|message|>q<|endoftext|><|end|>", "at byte 25: <|endoftext|>, which has no place"},
      {"<|start|>user<|message|>\xff<|end|>", "UTF-8"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    expect_data_error([&] { (void)harmony_of(LearnedTurns::kAll).render_harmony_text(c.text); }, c.expected);
  }
}

TEST(HarmonyText, SurvivesAnythingAsRandomText) {
  const std::vector<std::string> parts = {"<|start|>",  "<|end|>",  "<|message|>", "<|channel|>", "<|constrain|>",
                                          "<|return|>", "<|call|>", "<|",          "|>",          "assistant",
                                          "user",       "final",    " to=",        "functions.f", "\n",
                                          "é",          " ",        kUser,         kAnswer,       kTools};
  std::mt19937 random(1);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = i % 2 == 0 ? "" : kUser + kTools;
    if (!text.empty()) text.insert(random() % text.size(), parts[random() % parts.size()]);
    for (unsigned n = random() % 12; n > 0 && i % 2 == 0; --n) text += parts[random() % parts.size()];
    for (const LearnedTurns turns : {LearnedTurns::kAll, LearnedTurns::kExpand}) {
      try {
        const auto samples = harmony_of(turns).render_harmony_text(text);
        ++accepted;
        ASSERT_FALSE(samples.empty());
        for (const RenderedSample& sample : samples) ASSERT_EQ(sample.tokens.size(), sample.loss_weights.size());
      } catch (const DataError&) {
      }
    }
  }
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace ossature
