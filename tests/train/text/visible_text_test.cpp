#include "train/text/visible_text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "data/utf8.h"

namespace ossature {
namespace {

std::string joined(std::string_view bytes) {
  std::string text;
  for (const VisiblePiece& piece : visible_pieces(bytes)) {
    text += piece.kind == VisiblePiece::kText     ? piece.text
            : piece.kind == VisiblePiece::kEscape ? "[" + piece.text + "]"
                                                  : "/";
  }
  return text;
}

TEST(VisibleText, TextStaysAsItIs) {
  EXPECT_EQ(joined(""), "");
  EXPECT_EQ(joined("a\tb ~"), "a\tb ~");
  EXPECT_EQ(joined("é 日本 العربية \u00a0 👩‍👩‍👧 ❤️ \U0010ffff"),
            "é 日本 العربية \u00a0 👩‍👩‍👧 ❤️ \U0010ffff");
  EXPECT_EQ(joined("a\n\nb\n"), "a//b/");
  EXPECT_EQ(visible_line("a\n\tb\r"), "a\\n\\tb\\x0d");
}

TEST(VisibleText, HostileCharactersAreSpelledOut) {
  EXPECT_EQ(joined("\x1b[31m"), "[\\x1b][31m");
  EXPECT_EQ(joined(std::string("a\0b\x7f\r", 5)), "a[\\x00]b[\\x7f\\x0d]");
  EXPECT_EQ(joined("\u009b31m"), "[\\u{9b}]31m") << "a control sequence in one character";
  EXPECT_EQ(joined("\u202eabc\u2066\u200f\u061c"), "[\\u{202e}]abc[\\u{2066}\\u{200f}\\u{61c}]");
  EXPECT_EQ(joined("\u2028\u2029\u200b\ufeff\u00ad\u2063"), "[\\u{2028}\\u{2029}\\u{200b}\\u{feff}\\u{ad}\\u{2063}]");
  EXPECT_EQ(joined("\U000E0041"), "[\\u{e0041}]") << "a tag, invisible";
}

TEST(VisibleText, InvalidBytesAreSpelledOut) {
  EXPECT_EQ(joined("a\xe6\x97"), "a[\\xe6\\x97]");
  EXPECT_EQ(joined("\x80\xff日\xc3"), "[\\x80\\xff]日[\\xc3]");
  EXPECT_EQ(joined("\xed\xa0\x80"), "[\\xed\\xa0\\x80]") << "a surrogate";
  EXPECT_EQ(joined("\xc0\xaf"), "[\\xc0\\xaf]") << "too long a form";
}

TEST(VisibleText, HostileRandomBytesBecomeSafeUtf8) {
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 16, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 3 ? random() % 256 : 0xc2 + random() % 48);
    std::string shown;
    for (const VisiblePiece& piece : visible_pieces(bytes)) shown += piece.text;
    ASSERT_EQ(valid_utf8_prefix(shown), shown.size());
    for (std::size_t i = 0; i < shown.size(); ++i) {
      const auto c = static_cast<unsigned char>(shown[i]);
      ASSERT_TRUE((c >= 0x20 && c != 0x7f) || c == '\t');
      ASSERT_FALSE(c == 0xc2 && static_cast<unsigned char>(shown[i + 1]) < 0xa0);
    }
  }
}

}  // namespace
}  // namespace ossature
