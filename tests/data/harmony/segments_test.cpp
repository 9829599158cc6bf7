#include "data/harmony/segments.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/data/spelled_tokens.h"

namespace ossature {
namespace {

const std::filesystem::path kFixtures = std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures";

const Tokenizer& tokenizer() {
  static const Tokenizer fixture = Tokenizer::load(kFixtures);
  return fixture;
}
const HarmonyTokens& harmony() {
  static const HarmonyTokens tokens = HarmonyTokens::of(tokenizer());
  return tokens;
}

std::vector<Segment> segments_of(std::span<const std::int32_t> tokens, const HarmonyTokens& ids = harmony()) {
  std::vector<Segment> segments;
  SegmentFinder finder(ids, tokens);
  for (Segment segment; finder.next(segment);) segments.push_back(segment);
  return segments;
}

std::string text_of(std::span<const std::int32_t> tokens, std::int64_t begin, std::int64_t end) {
  return tokenizer().decode(tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
}

/// Each segment as "kind: content".
std::vector<std::string> found(std::string_view text) {
  const auto tokens = tokens_of(tokenizer(), text);
  std::vector<std::string> result;
  for (const Segment& s : segments_of(tokens)) {
    result.push_back(std::string(name_of(s.kind)) + ": " + text_of(tokens, s.content_begin, s.content_end));
  }
  return result;
}

/// The header of the first segment as "role|name|recipient|channel|content type".
std::string header(std::string_view text) {
  const auto tokens = tokens_of(tokenizer(), text);
  const SegmentHeader h = header_of(tokenizer(), harmony(), tokens, segments_of(tokens).at(0));
  return h.role + "|" + h.name + "|" + h.recipient + "|" + h.channel + "|" + h.content_type;
}

using Strings = std::vector<std::string>;

TEST(Segments, KindsOfMessages) {
  EXPECT_EQ(found("<|start|>system<|message|>s<|end|><|start|>developer<|message|><|end|><|start|>user<|message|>u "
                  "final<|end|><|start|>assistant<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>"
                  "commentary<|message|>c<|end|><|start|>assistant<|channel|>final<|message|>f<|return|>"),
            (Strings{"other_messages: s", "other_messages: ", "other_messages: u final", "analysis: a", "commentary: c",
                     "final: f"}));
  EXPECT_EQ(
      found("<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|><|start|>functions.f "
            "to=assistant<|channel|>commentary<|message|>1<|end|>"),
      (Strings{"tool_calls: {}", "other_messages: 1"}));
  EXPECT_EQ(found("<|start|>assistant<|channel|>analysis to=python code<|message|>1<|call|>"),
            Strings{"tool_calls: 1"});
  EXPECT_EQ(found("<|start|>assistant<|message|>x<|end|>"), Strings{"other_messages: x"});
  EXPECT_EQ(found("<|start|>assistant<|channel|>diary<|message|>x<|end|>"), Strings{"other_messages: x"});
}

TEST(Segments, PlainTextIsOneSegment) {
  EXPECT_EQ(found(""), Strings{});
  EXPECT_EQ(found("assistant final to=x"), Strings{"plain_text: assistant final to=x"});
  EXPECT_EQ(found("a<|endoftext|>"), Strings{"plain_text: a<|endoftext|>"});
}

TEST(Segments, CutAndBrokenSamples) {
  EXPECT_EQ(found("<|channel|>final<|message|>a<|return|>"), Strings{"final: a"});
  EXPECT_EQ(found(" to=f<|channel|>commentary<|message|>a<|call|>"), Strings{"tool_calls: a"});
  EXPECT_EQ(found("the end<|end|><|start|>assistant<|channel|>final<|message|>a"),
            (Strings{"plain_text: the end", "final: a"}));
  EXPECT_EQ(found("<|start|>assistant<|channel|>final<|start|>user<|message|>a"),
            (Strings{"final: ", "other_messages: a"}));
  EXPECT_EQ(found("<|start|>assistant<|channel|>final<|message|>a<|start|>user"),
            (Strings{"final: a", "other_messages: "}));
  EXPECT_EQ(found("<|start|><|start|>"), (Strings{"other_messages: ", "other_messages: "}));
  EXPECT_EQ(found("<|end|><|return|>"), (Strings{"plain_text: ", "plain_text: "}));
  EXPECT_EQ(found("<|start|>assistant<|channel|>final<|message|>a<|channel|>analysis<|message|>b<|return|>c"),
            (Strings{"final: a<|channel|>analysis<|message|>b", "plain_text: c"}));
}

TEST(Segments, HeaderParts) {
  const struct {
    const char *text, *header;
  } kCases[] = {
      {"<|start|>user<|message|>hi", "user||||"},
      {"<|start|>user:alice<|message|>hi", "user|alice|||"},
      {"<|start|>assistant<|channel|>final<|message|>", "assistant|||final|"},
      {"<|start|>assistant to=functions.f<|channel|>commentary json<|message|>",
       "assistant||functions.f|commentary|json"},
      {"<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
       "assistant||functions.f|commentary|<|constrain|>json"},
      {"<|start|>assistant<|channel|>commentary to=functions.f<|constrain|>json<|message|>",
       "assistant||functions.f|commentary|<|constrain|>json"},
      {"<|start|>functions.f to=assistant<|channel|>commentary<|message|>", "tool|functions.f|assistant|commentary|"},
      {"<|channel|>analysis<|message|>x", "|||analysis|"},
      {"<|start|>assistant<|channel|>", "assistant||||"},
      {"<|start|>", "||||"},
      {"plain", "||||"},
  };
  for (const auto& c : kCases) EXPECT_EQ(header(c.text), c.header) << c.text;
}

TEST(Segments, ThoseOfTheTemplateAreAllFound) {
  std::ifstream in(kFixtures / "chat.jsonl");
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const auto golden = nlohmann::json::parse(line);
    const auto tokens = golden["ids"].get<std::vector<std::int32_t>>();
    std::string text = golden["text"];
    std::string joined;
    for (const Segment& s : segments_of(tokens)) {
      const SegmentHeader h = header_of(tokenizer(), harmony(), tokens, s);
      joined += "<|start|>" + (h.role == "tool" ? h.name : h.role);
      if (!h.recipient.empty()) joined += " to=" + h.recipient;
      if (!h.channel.empty()) joined += "<|channel|>" + h.channel;
      if (!h.content_type.empty()) joined += " " + h.content_type;
      joined += "<|message|>" + text_of(tokens, s.content_begin, s.end);
      EXPECT_EQ(s.end, s.content_end + 1);
      EXPECT_EQ(s.kind == SegmentKind::kToolCalls, h.role == "assistant" && !h.recipient.empty());
      const bool is_plain = h.role == "assistant" && h.recipient.empty();
      EXPECT_EQ(is_plain ? h.channel : "", s.kind <= SegmentKind::kFinal ? name_of(s.kind) : "");
    }
    EXPECT_EQ(joined, text);
  }
  EXPECT_EQ(count, 30);
}

TEST(Segments, IdsOfTheRealTokenizer) {
  const HarmonyTokens o200k = HarmonyTokens::o200k(201088);
  EXPECT_TRUE(o200k.is_known());
  EXPECT_FALSE(HarmonyTokens::o200k(200018).is_known());
  // <|start|>assistant<|channel|>analysis<|message|>A<|end|><|start|>assistant to=x<|channel|>commentary<|message|>B
  const std::vector<std::int32_t> tokens = {200006, 173781, 200005, 35644,  200008, 32,  200007, 200006, 173781,
                                            316,    28,     87,     200005, 12606,  815, 200008, 33,     200012};
  const auto segments = segments_of(tokens, o200k);
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].kind, SegmentKind::kAnalysis);
  EXPECT_EQ(segments[0].content_begin, 5);
  EXPECT_EQ(segments[1].kind, SegmentKind::kToolCalls);
  EXPECT_EQ(segments[1].content_begin, 16);
  EXPECT_EQ(segments[1].end, 18);
}

TEST(Segments, WithoutHarmonyEverythingIsText) {
  const auto tokens = tokens_of(tokenizer(), "<|start|>user<|message|>hi<|end|>");
  for (const HarmonyTokens& ids : {HarmonyTokens(), HarmonyTokens::o200k(1000)}) {
    const auto segments = segments_of(tokens, ids);
    ASSERT_EQ(segments.size(), 1u);
    EXPECT_EQ(segments[0].kind, SegmentKind::kText);
    EXPECT_EQ(segments[0].end, static_cast<std::int64_t>(tokens.size()));
  }
}

TEST(Segments, SurviveAnyTokensAndCoverThem) {
  std::mt19937 random(7);
  const auto& ids = harmony();
  const std::vector<std::int32_t> marks = {ids.start,        ids.end,      ids.message, ids.channel, ids.constrain,
                                           ids.return_,      ids.call,     -1,          INT32_MIN,   INT32_MAX,
                                           ids.assistant[0], ids.final[0], ids.to[0]};
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::int32_t> tokens(random() % 12);
    for (auto& token : tokens)
      token = random() % 4 ? marks[random() % marks.size()] : static_cast<std::int32_t>(random() % 700);
    std::int64_t position = 0;
    for (const Segment& s : segments_of(tokens)) {
      ASSERT_EQ(s.begin, position);
      ASSERT_LE(s.begin, s.content_begin);
      ASSERT_LE(s.content_begin, s.content_end);
      ASSERT_LE(s.content_end, s.end);
      ASSERT_LE(s.end, s.content_end + 1);
      ASSERT_LT(s.begin, s.end);
      position = s.end;
      (void)header_of(tokenizer(), ids, tokens, s);
    }
    ASSERT_EQ(position, static_cast<std::int64_t>(tokens.size()));
  }
}

}  // namespace
}  // namespace ossature
