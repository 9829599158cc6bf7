#include "data/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace ossature {
namespace {

/// By decoding every character: what RFC 3629 says, written another way.
std::size_t slow_prefix(const std::string& text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const auto byte = [&](std::size_t i) -> unsigned {
      return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
    };
    const unsigned first = byte(at);
    const int length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
    if (length == 0) return at;
    unsigned code = length == 1 ? first : first & (0xff >> (length + 1));
    for (int i = 1; i < length; ++i) {
      if (byte(at + i) >> 6 != 2) return at;
      code = code << 6 | (byte(at + i) & 0x3f);
    }
    constexpr unsigned kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kLeast[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return at;
    at += static_cast<std::size_t>(length);
  }
  return at;
}

TEST(Utf8, EverySequenceOfUpToThreeBytes) {
  for (unsigned first = 0; first < 256; ++first) {
    for (unsigned second = 0; second < 256; ++second) {
      for (const unsigned third : {0x00u, 0x41u, 0x7fu, 0x80u, 0xbfu, 0xc0u, 0xffu}) {
        const std::string text = {static_cast<char>(first), static_cast<char>(second), static_cast<char>(third)};
        for (std::size_t size = 1; size <= 3; ++size)
          ASSERT_EQ(valid_utf8_prefix(text.substr(0, size)), slow_prefix(text.substr(0, size)));
      }
    }
  }
}

TEST(Utf8, EverySecondAndThirdByteOfFour) {
  for (unsigned first = 0xef; first < 256; ++first) {
    for (unsigned second = 0x7f; second < 0xc1; ++second) {
      for (const unsigned third : {0x7fu, 0x80u, 0xbfu, 0xc0u}) {
        for (const unsigned fourth : {0x7fu, 0x80u, 0xbfu, 0xc0u}) {
          const std::string text = {static_cast<char>(first), static_cast<char>(second), static_cast<char>(third),
                                    static_cast<char>(fourth)};
          ASSERT_EQ(valid_utf8_prefix(text), slow_prefix(text));
        }
      }
    }
  }
}

TEST(Utf8, OneWrongByteAnywhereInMixedText) {
  std::mt19937 random(7);
  const std::vector<std::string> pieces = {
      "plain words that are longer than thirty-two bytes, ", "é", "日本語", "😀", "\n", "x"};
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    while (text.size() < 120) text += pieces[random() % pieces.size()];
    ASSERT_EQ(valid_utf8_prefix(text), text.size());
    text[random() % text.size()] = static_cast<char>(random());
    ASSERT_EQ(valid_utf8_prefix(text), slow_prefix(text));
    text.resize(random() % text.size());
    ASSERT_EQ(valid_utf8_prefix(text), slow_prefix(text));
  }
}

}  // namespace
}  // namespace ossature
