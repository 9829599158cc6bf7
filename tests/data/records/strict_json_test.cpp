#include "data/records/strict_json.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/data/errors.h"

namespace ossature {
namespace {

TEST(StrictJson, ReadsWhatTheLibraryReads) {
  for (const std::string text :
       {R"({"a": [1, -2, 3.5e2, true, false, null, "x\ud83d\ude00\u0000y"], "b": {}, "c": [], "": {"a": {"a": []}}})",
        "[]", "7", "\"\"", "18446744073709551615", "-9223372036854775808", " [ 1 ,\n2 ] "}) {
    EXPECT_TRUE(parse_json(text) == Json::parse(text)) << text;
  }
}

TEST(StrictJson, RefusesWithTheColumn) {
  const auto expect = [](const std::string& text, const std::string& what) {
    EXPECT_TRUE(data_error_of([&] { (void)parse_json(text); }).starts_with(what))
        << data_error_of([&] { (void)parse_json(text); });
  };
  expect("", "not JSON at column 1: unexpected end of input");
  expect("{\"a\": 1", "not JSON at column 8: unexpected end of input; expected '}'");
  expect("{\"é\": tru}", "not JSON at column 10: invalid literal; last read: '\"é\": tru}'");
  expect("[1,\n 2,\n x]", "not JSON at line 3, column 2: invalid literal");
  expect("[1, 2", "not JSON at column 6");
  expect("[01]", "not JSON at column 3");
  expect("[1e400]", "not JSON at column 6: number overflow parsing '1e400'");
  expect("[\"\\ud800\"]", "not JSON at column 9: invalid string: surrogate");
  expect(std::string("[\"a\0\"]", 6), "not JSON at column 4: invalid string: control character U+0000");
  expect("18446744073709551616", "the integer 18446744073709551616 needs more than 64 bits");
  expect("[] []", "not JSON at column 4");
  EXPECT_EQ(data_error_of([] { (void)parse_json("{\"a\":\n?}", 12, 5); }).substr(0, 32),
            "not JSON at line 13, column 1: i");
  EXPECT_EQ(data_error_of([] { (void)parse_json("?", 12, 5); }).substr(0, 22), "not JSON at column 5: ");
  // However long what was read last is.
  EXPECT_LT(data_error_of([] { (void)parse_json("[\"" + std::string(100'000, 'x')); }).size(), 200u);
}

TEST(StrictJson, RefusesKeysThatStandTwice) {
  expect_data_error([] { (void)parse_json(R"([{"a": 1, "b": {"a": 2, "a": 3}}])"); },
                    R"(the key "a" stands twice in one object)");
  std::string many = "{";
  for (int i = 0; i < 100; ++i) many += "\"key" + std::to_string(i) + "\": {\"key1\": 0},";
  EXPECT_EQ(parse_json(many + "\"key\": 1}").size(), 101u);
  for (const char* twice : {"key0", "key15", "key16", "key99"}) {
    expect_data_error([&] { (void)parse_json(many + "\"" + twice + "\": 1}"); }, twice);
  }
}

TEST(StrictJson, HostileSizesTakeLinearTimeAndNoStack) {
  const auto begin = std::chrono::steady_clock::now();
  for (const char* open : {"[", "{\"a\":", "[{\"a\":"}) {
    std::string deep;
    while (deep.size() < 1'000'000) deep += open;
    expect_data_error([&] { (void)parse_json(deep); }, "more than 256 lists and objects within each other");
  }
  std::string keys = "{";
  for (int i = 0; i < 200'000; ++i) keys += "\"" + std::to_string(i) + "\":0,";
  EXPECT_EQ(parse_json(keys + "\"\":0}").size(), 200'001u);
  EXPECT_EQ(parse_json(std::string(256, '[') + std::string(256, ']')).size(), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(StrictJson, DescribesValuesShortly) {
  const auto described = [](const std::string& text) { return describe(Json::parse(text)); };
  EXPECT_EQ(described("7"), "7");
  EXPECT_EQ(described("null"), "null");
  EXPECT_EQ(described("[1, 2]"), "a list of 2");
  EXPECT_EQ(described("{}"), "an empty object");
  EXPECT_EQ(described(R"({"role": 1, "text": 2})"), "an object with the keys role, text");
  EXPECT_EQ(described(R"("a\n\"b\"")"), R"(the text "a\n\"b\"")");
  // Cut between characters: 39 bytes of ASCII and a letter of two.
  EXPECT_EQ(described("\"" + std::string(39, 'x') + "éy\""), "the text \"" + std::string(39, 'x') + "...\"");
}

}  // namespace
}  // namespace ossature
