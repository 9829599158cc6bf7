#include "train/reports/preview.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/data/spelled_tokens.h"

namespace ossature {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer fixture = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return fixture;
}

/// A sample of parts, each with its weight.
PreviewSample sample_of(const std::vector<std::pair<std::string, float>>& parts) {
  PreviewSample sample;
  sample.title = "sample 0 of 1";
  for (const auto& [text, weight] : parts) {
    const auto tokens = tokens_of(tokenizer(), text);
    sample.tokens.insert(sample.tokens.end(), tokens.begin(), tokens.end());
    sample.loss_weights.resize(sample.tokens.size(), weight);
  }
  sample.length = static_cast<std::int64_t>(sample.tokens.size());
  return sample;
}

/// The lines of the only sample, without its heading.
std::string text_of(const PreviewSample& sample, bool color = false) {
  std::ostringstream out;
  write_preview_text(out, {sample}, tokenizer(), color);
  std::string text = out.str();
  text.erase(0, text.find("\n\n") + 2);
  return text.substr(text.find('\n') + 1);
}

std::string page_of(const PreviewSample& sample) {
  std::ostringstream out;
  write_preview_page(out, "a <title> & \"more\"\x1b", {sample}, tokenizer());
  return out.str();
}

TEST(Preview, WeightsStandInFrontOfTheirTokens) {
  EXPECT_EQ(
      text_of(sample_of({{"<|start|>user<|message|>a\n\nb<|end|><|start|>assistant", 0},
                         {"<|channel|>final<|message|>yes\nno", 1},
                         {" half", 0.5F},
                         {"<|return|>", 1}})),
      "-- user: " + std::to_string(tokens_of(tokenizer(), "<|start|>user<|message|>a\n\nb<|end|>").size()) +
          R"( tokens
       | <|start|>user<|message|>a
       | 
       | b<|end|>
)"
          "-- assistant, final: " +
          std::to_string(tokens_of(tokenizer(), "<|start|>assistant<|channel|>final<|message|>yes\nno half").size() +
                         1) +
          " tokens, " + std::to_string(tokens_of(tokenizer(), "<|channel|>final<|message|>yes\nno half").size() + 1) +
          " learned\n" +
          R"(       | <|start|>assistant
     1 > <|channel|>final<|message|>yes
     1 | no
   0.5 >  half
     1 > <|return|>
)");
}

TEST(Preview, LineBreaksAtTheEdgesOfWeights) {
  const auto lines = [](const std::vector<std::pair<std::string, float>>& parts) {
    const std::string text = text_of(sample_of(parts));
    return text.substr(text.find('\n') + 1);
  };
  EXPECT_EQ(lines({{"a\n", 0}, {"b", 1}}), "       | a\n     1 | b\n");
  EXPECT_EQ(lines({{"a", 0}, {"\nb", 1}}), "       | a\n     1 > \n     1 | b\n");
  EXPECT_EQ(lines({{"a\n", 1}}), "     1 | a\n       |\n");
  EXPECT_EQ(lines({{"\n", 0.25F}}), "  0.25 | \n       |\n");
}

TEST(Preview, TextThatLooksLikeASpecialTokenIsTold) {
  PreviewSample sample;
  sample.tokens = tokenizer().encode("a<|end|>");
  sample.tokens.push_back(*tokenizer().special("<|end|>"));
  sample.loss_weights.resize(sample.tokens.size());
  EXPECT_NE(text_of(sample).find("| a<\\|end|><|end|>\n"), std::string::npos) << text_of(sample);
  EXPECT_NE(
      page_of(sample).find("class=\"s\" title=\"id " + std::to_string(sample.tokens.back()) + ", weight 0, position " +
                           std::to_string(sample.tokens.size() - 1) + "\">&lt;|end|&gt;"),
      std::string::npos);
}

TEST(Preview, HostileDataSendsNothingToTheTerminal) {
  const PreviewSample sample =
      sample_of({{"\x1b]0;title\x07\x1b[2J \xc2\x9b"
                  "31m \xe2\x80\xae",
                  0}});
  const std::string text = text_of(sample);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("\\x1b]0;title\\x07\\x1b[2J \\u{9b}31m \\u{202e}"), std::string::npos) << text;
  std::string colored = text_of(sample, true);
  for (std::size_t at = 0; (at = colored.find("\x1b[", at)) != std::string::npos;) {
    const std::size_t end = colored.find('m', at);
    EXPECT_EQ(colored.find_first_not_of("0123456789;", at + 2), end);
    colored.erase(at, end + 1 - at);
  }
  EXPECT_EQ(colored, text) << "colours aside it is the same text";
}

TEST(Preview, HostileDataDoesNotLeaveThePage) {
  const std::string page = page_of(sample_of({{"<script>alert('x')</script>&amp;\" \x1b", 1}}));
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find('\x1b'), std::string::npos);
  EXPECT_NE(page.find("<title>a &lt;title&gt; &amp; &quot;more&quot;\\x1b</title>"), std::string::npos);
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  EXPECT_EQ(page.find("http://"), std::string::npos);
  EXPECT_EQ(page.find("https://"), std::string::npos);
}

TEST(Preview, CharactersCutBetweenTokensAreShownWhole) {
  // The fixture knows few characters, so this one takes several tokens.
  const auto tokens = tokenizer().encode("𝒳");
  ASSERT_GT(tokens.size(), 1u);
  PreviewSample sample = sample_of({{"𝒳", 1}});
  EXPECT_NE(text_of(sample).find("     1 | 𝒳\n"), std::string::npos);
  EXPECT_NE(page_of(sample).find(", position 0\">𝒳</span>"), std::string::npos);
  sample.loss_weights[0] = 0;  // now it cannot be shown whole
  EXPECT_NE(text_of(sample).find("       | \\xf0"), std::string::npos) << text_of(sample);
  EXPECT_NE(page_of(sample).find("position 0\"><b>\\xf0"), std::string::npos);
}

TEST(Preview, IdsWithoutTokenAreNamed) {
  PreviewSample sample = sample_of({{"a", 0}});
  sample.tokens[0] = static_cast<std::int32_t>(tokenizer().vocab_size()) + 5;
  EXPECT_NE(text_of(sample).find("| \\id{" + std::to_string(sample.tokens[0]) + "}\n"), std::string::npos);
}

TEST(Preview, CountsSayWhatIsShown) {
  PreviewSample sample = sample_of({{"plain text", 1}});
  const auto size = std::to_string(sample.length);
  EXPECT_EQ(preview_counts(sample), size + " tokens, " + size + " learned");
  sample.length = 1000;
  sample.loss_weights.assign(sample.loss_weights.size(), 0.0F);
  EXPECT_EQ(preview_counts(sample), "1000 tokens, the first " + size + " shown, none learned");
}

TEST(Preview, HeadingsSayRoleChannelAndRecipient) {
  const PreviewSample sample =
      sample_of({{"<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", 1},
                 {"<|start|>functions.f to=assistant<|channel|>commentary<|message|>1<|end|>plain", 0}});
  std::vector<std::string> headings;
  for (const auto& message : preview_messages(sample, tokenizer(), HarmonyTokens::of(tokenizer())))
    headings.push_back(message.heading);
  EXPECT_EQ(headings, (std::vector<std::string>{"assistant, commentary, to functions.f, <|constrain|>json",
                                                "tool functions.f, commentary, to assistant", "text"}));
}

}  // namespace
}  // namespace ossature
