#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "data/sha256.h"
#include "tests/data/errors.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

using nlohmann::json;

const std::filesystem::path kSource = OSSATURE_SOURCE_DIR;
const std::filesystem::path kFixtures = kSource / "tests/data/fixtures";

void expect_equal(const Tokenizer& tokenizer, const std::filesystem::path& goldens) {
  std::ifstream in(goldens);
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const json golden = json::parse(line);
    const auto text = golden["text"].get<std::string>();
    const auto ids = golden["ids"].get<std::vector<std::int32_t>>();
    EXPECT_EQ(tokenizer.encode(text), ids) << golden["text"];
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
  EXPECT_GT(count, 100);
}

TEST(Tokenizer, EqualsTheTokenizersLibraryOnOurFixture) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  expect_equal(tokenizer, kFixtures / "tokens.jsonl");
}

TEST(Tokenizer, EqualsTheTokenizersLibraryOnO200kHarmony) {
  const auto shared = kSource / "../shared";
  if (!std::filesystem::exists(shared / "golden/text/tokens.jsonl")) GTEST_SKIP() << "needs ../shared";
  const Tokenizer tokenizer = Tokenizer::load(shared / "tokenizer");
  EXPECT_EQ(tokenizer.vocab_size(), 200019);
  EXPECT_EQ(tokenizer.special("<|start|>"), 200006);
  EXPECT_EQ(tokenizer.sha256(), "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3");
  expect_equal(tokenizer, shared / "golden/text/tokens.jsonl");
}

TEST(Tokenizer, SpellingASpecialTokenIsText) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures / "tokenizer.json");
  const auto start = tokenizer.special("<|start|>");
  ASSERT_TRUE(start);
  EXPECT_TRUE(tokenizer.is_special(*start));
  EXPECT_EQ(tokenizer.bytes_of(*start), "<|start|>");
  for (const std::int32_t id : tokenizer.encode("a<|start|>b<|end|><|return|>")) EXPECT_FALSE(tokenizer.is_special(id));
  EXPECT_FALSE(tokenizer.special("<|no such token|>"));
  EXPECT_FALSE(tokenizer.special("the"));
}

TEST(Tokenizer, IdsWithoutTokenHaveNoBytes) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  const auto beyond = static_cast<std::int32_t>(tokenizer.vocab_size());
  EXPECT_EQ(tokenizer.bytes_of(beyond), "");
  EXPECT_EQ(tokenizer.bytes_of(-1), "");
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{-1, beyond, tokenizer.encode("x")[0]}), "x");
}

TEST(Tokenizer, EveryByteSequenceThatIsTextComesBack) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  std::string text;
  for (char32_t c = 1; c < 0x110000; c += c < 0x3000 ? 7 : 61) {
    if (c >= 0xd800 && c < 0xe000) continue;
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
               static_cast<char>(0x80 | (c & 0x3f))};
    } else {
      text += {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3f)),
               static_cast<char>(0x80 | (c >> 6 & 0x3f)), static_cast<char>(0x80 | (c & 0x3f))};
    }
  }
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(Tokenizer, SplitByHandOrByPcre2AndFromTheCacheOrNot) {
  // The same pattern in other letters goes to PCRE2, which has no cache of words either.
  const TemporaryDirectory folder;
  std::ifstream in(kFixtures / "tokenizer.json");
  json other = json::parse(in);
  json& pattern = other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
  pattern = "(?:" + pattern.get<std::string>() + ")";
  const Tokenizer by_hand = Tokenizer::load(kFixtures);
  const Tokenizer by_pcre2 = Tokenizer::load(folder.write("tokenizer.json", other.dump()));
  const std::vector<std::string> parts = {"the",
                                          "president",
                                          " of ",
                                          "antidisestablishmentarianism",
                                          "A",
                                          "0",
                                          "\n",
                                          " ",
                                          "'s",
                                          "'\u017f",
                                          "\u65e5",
                                          "\u0439",
                                          "\U0001f600",
                                          std::string(1, '\0'),
                                          "\u0301",
                                          "fifteen-bytes-x",
                                          "sixteen-bytes-xy",
                                          "zzzzzzzzzzzzzzzz",
                                          "\t",
                                          "<|end|>"};
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (std::size_t n = 1 + random() % 12; n > 0; --n) text += parts[random() % parts.size()];
    const auto ids = by_hand.encode(text);
    ASSERT_EQ(ids, by_pcre2.encode(text)) << text;
    ASSERT_EQ(by_hand.decode(ids), text);
  }
}

TEST(Tokenizer, LongWordsTakeNearlyLinearTime) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  const auto begin = std::chrono::steady_clock::now();
  for (const char* part : {"a", "the", "日", " ", "=", "A", "\n"}) {
    std::string text;
    while (text.size() < 1 << 19) text += part;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  // Quadratic work would take hours; sanitizers slow this down tenfold.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST(Tokenizer, LongAndShortWordsMergeAlike) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  // A word of 40 letters is merged by search, one of 80 by heap; "x" is no part of any merge of the fixture with
  // itself.
  const std::string word(40, 'z');
  auto twice = tokenizer.encode(word);
  const auto once = twice;
  twice.insert(twice.end(), once.begin(), once.end());
  EXPECT_EQ(tokenizer.encode(word + word), twice);
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  const std::string text = "The quick brown fox 日本語 <|end|> \n\n 12345";
  const auto expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::array<int, 4> wrong{};
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) count += tokenizer.encode(text) != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = Tokenizer::load(kFixtures);
  for (const std::string bytes : {"\xff", "abc\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf5\x80\x80\x80", "a\x80z"}) {
    expect_data_error([&] { (void)tokenizer.encode(bytes); }, "not UTF-8");
  }
  expect_data_error([&] { (void)tokenizer.encode("abc\xff"); }, "byte 3");
}

TEST(Tokenizer, RefusesOtherKindsOfTokenizers) {
  const TemporaryDirectory folder;
  std::ifstream in(kFixtures / "tokenizer.json");
  const json good = json::parse(in);
  const auto expect_refused = [&](const std::function<void(json&)>& change, const std::string& reason) {
    json bad = good;
    change(bad);
    const auto path = folder.write("tokenizer.json", bad.dump());
    expect_data_error([&] { (void)Tokenizer::load(path); }, reason);
    expect_data_error([&] { (void)Tokenizer::load(path); }, path.string());
  };
  expect_refused([](json& t) { t["model"]["type"] = "Unigram"; }, "model.type");
  expect_refused([](json& t) { t["model"]["byte_fallback"] = true; }, "byte_fallback");
  expect_refused([](json& t) { t["model"]["dropout"] = 0.1; }, "dropout");
  expect_refused([](json& t) { t["model"]["unk_token"] = "<unk>"; }, "unk_token");
  expect_refused([](json& t) { t["normalizer"] = {{"type", "NFC"}}; }, "normalizer");
  expect_refused([](json& t) { t["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "pre_tokenizer");
  expect_refused([](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }, "Isolated");
  expect_refused([](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(["; },
                 "regular expression");
  expect_refused([](json& t) { t["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; }, "ByteLevel");
  expect_refused([](json& t) { t["model"]["merges"].push_back({"zq", "qz"}); }, "not in model.vocab");
  expect_refused([](json& t) { t["model"]["merges"].push_back({"a"}); }, "pair");
  expect_refused([](json& t) { t["model"]["merges"].push_back(7); }, "pair");
  expect_refused([](json& t) { t["model"]["vocab"].erase("a"); }, "byte 97");
  expect_refused([](json& t) { t["model"]["vocab"]["zzz"] = -1; }, "-1");
  expect_refused([](json& t) { t["model"]["vocab"]["zzz"] = 1LL << 40; }, "1099511627776");
  expect_refused([](json& t) { t["model"]["vocab"]["zzz"] = 0; }, "given to both");
  expect_refused([](json& t) { t["model"]["vocab"]["zzz"] = json::object(); }, "no number");
  expect_refused([](json& t) { t["model"]["vocab"]["日"] = 5000; }, "alphabet");
  expect_refused([](json& t) { t["model"].erase("vocab"); }, "vocab");
  expect_refused([](json& t) { t["added_tokens"][0]["special"] = false; }, "not special");
  expect_refused([](json& t) { t["added_tokens"].push_back(t["added_tokens"][0]); }, "twice");
  expect_refused([](json& t) { t = json::array(); }, "model");
  const auto truncated = folder.write("tokenizer.json", good.dump().substr(0, 9999));
  expect_data_error([&] { (void)Tokenizer::load(truncated); }, "tokenizer.json");
  expect_data_error([&] { (void)Tokenizer::load(folder / "missing.json"); }, "cannot be opened");
}

TEST(Tokenizer, MergesMayBeWrittenAsOneText) {
  const TemporaryDirectory folder;
  std::ifstream in(kFixtures / "tokenizer.json");
  json old = json::parse(in);
  for (json& merge : old["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  expect_equal(Tokenizer::load(folder.write("tokenizer.json", old.dump())), kFixtures / "tokens.jsonl");
}

TEST(Sha256, EqualsTheStandardsExamples) {  // FIPS 180-4's examples, and the million a's
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace ossature
