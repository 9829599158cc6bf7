// The hand-written splitter against PCRE2 with the regular expression it stands for.
#include "data/tokenizer/o200k_splitter.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "data/tokenizer/split_regex.h"
#include "data/tokenizer/unicode_classes.h"

namespace ossature {
namespace {

std::string pattern() {
  std::ifstream in(std::string(OSSATURE_SOURCE_DIR) + "/tests/data/fixtures/tokenizer.json");
  return nlohmann::json::parse(in)["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
}

std::string utf8(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

std::vector<std::string> split(const O200kSplitter& splitter, std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = splitter.end_of_word(text, begin);
    EXPECT_GT(end, begin);
    words.emplace_back(text.substr(begin, end - begin));
    if (end <= begin) break;
  }
  return words;
}

std::vector<std::string> split(const SplitRegex& regex, std::string_view text) {
  std::vector<std::string> words;
  regex.split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

/// All code points that PCRE2 knows too: its Unicode may be older than ours, and what it takes for unassigned is a
/// letter here.
std::vector<char32_t> shared_code_points() {
  std::string text;
  std::vector<char32_t> all, shared;
  for (char32_t c = 1; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    all.push_back(c);
    text += utf8(c) + "a";
  }
  // Of "Xa" an assigned X makes one piece, an unassigned one two.
  std::size_t i = 0;
  bool is_letter_due = false;
  SplitRegex(R"(\P{Cn}a?)").split(text, [&](std::string_view piece) {
    if (is_letter_due) {
      is_letter_due = false;
      return;
    }
    if (piece.size() > 1 && piece.back() == 'a') {
      shared.push_back(all[i]);
    } else {
      is_letter_due = true;
    }
    ++i;
  });
  EXPECT_EQ(i, all.size());
  return shared;
}

TEST(O200kSplitter, KnowsItsPatternOnly) {
  EXPECT_TRUE(O200kSplitter::knows(pattern()));
  EXPECT_FALSE(O200kSplitter::knows(pattern() + "?"));
  EXPECT_FALSE(O200kSplitter::knows(R"(\s+)"));
}

TEST(O200kSplitter, EveryCharacterBetweenOthersAsPcre2) {
  const O200kSplitter splitter;
  const SplitRegex regex(pattern());
  const std::vector<char32_t> code_points = shared_code_points();
  EXPECT_GT(code_points.size(), 280000u);
  const std::vector<std::string> neighbours = {"", "a", "A", " ", "!", "\u65e5", "'s"};
  for (const std::string& before : neighbours) {
    for (const std::string& after : neighbours) {
      std::string text;
      for (const char32_t c : code_points) {
        text += before + utf8(c) + after;
        if (text.size() > 4000) {
          ASSERT_EQ(split(splitter, text), split(regex, text));
          text.clear();
        }
      }
      ASSERT_EQ(split(splitter, text), split(regex, text));
    }
  }
}

TEST(O200kSplitter, RandomTextsAsPcre2) {
  const O200kSplitter splitter;
  const SplitRegex regex(pattern());
  const std::vector<char32_t> code_points = shared_code_points();
  const std::vector<std::string> parts = {
      "a",      "b",      "s",      "S",      "A",      "Z",          "\u01c5",     "\u02b0",  "\u65e5",  "\u0301",
      "\u0903", "1",      "\u0664", "\u216b", " ",      "  ",         "\t",         "\n",      "\r",      "\r\n",
      "\u00a0", "\u2028", "\u0085", "\u180e", "\u3000", "'",          "'s",         "'S",      "'\u017f", "'T",
      "'re",    "'Re",    "'vE",    "'LL",    "'l",     "'d",         "'m",         "\u2019s", "/",       "//",
      "!",      "...",    "<|",     "_",      "\u200d", "\U0001f600", "\U0001d400", "\x01",    "\x7f"};
  std::mt19937 random(20261125);
  const auto below = [&](std::size_t n) { return random() % n; };
  for (int i = 0; i < 200000; ++i) {
    std::string text;
    for (std::size_t n = 1 + below(i % 100 == 0 ? 300 : 14); n > 0; --n) {
      if (below(8) == 0) {
        text += utf8(code_points[below(code_points.size())]);
      } else {
        const std::string& part = parts[below(parts.size())];
        for (std::size_t times = below(12) == 0 ? 1 + below(9) : 1; times > 0; --times) text += part;
      }
    }
    ASSERT_EQ(split(splitter, text), split(regex, text)) << i;
  }
}

TEST(UnicodeClasses, KnowUnicode16) {  // which PCRE2 10.42 does not; the peers' suite compares every code point
  const UnicodeClasses& classes = UnicodeClasses::get();
  EXPECT_EQ(classes[0x1c89], CharacterClass::kUpper);
  EXPECT_EQ(classes[0x1c8a], CharacterClass::kLower);
  EXPECT_EQ(classes[0x10d40], CharacterClass::kNumber);
  EXPECT_EQ(classes[0x10ffff], CharacterClass::kOther);
  EXPECT_EQ(classes[0], CharacterClass::kOther);
  EXPECT_EQ(classes['\n'], CharacterClass::kNewline);
  EXPECT_EQ(classes[0x85], CharacterClass::kSpace);
}

}  // namespace
}  // namespace ossature
