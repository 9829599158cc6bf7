// Replies piece by piece: what is shown when, and that no character is cut. harmony_reply_test.cpp tests the format.
#include "data/harmony/reply_stream.h"

#include <gtest/gtest.h>

#include "data/utf8.h"
#include "tests/data/spelled_tokens.h"

namespace ossature {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return loaded;
}

std::string spelled(const std::vector<ReplyPiece>& pieces) {
  std::string text;
  for (const ReplyPiece& piece : pieces) {
    if (piece.kind == ReplyPiece::kBegin) text += "{" + piece.message.channel + " " + piece.message.recipient + "}";
    if (piece.kind == ReplyPiece::kText) text += piece.text;
    if (piece.kind == ReplyPiece::kEnd) text += piece.message.complete ? "." : "...";
  }
  return text;
}

TEST(ReplyStream, AMessageBeginsBeforeItsTextComes) {
  ReplyStream stream(tokenizer());
  std::string seen;
  const auto feed = [&](std::string_view text) {
    seen.clear();
    for (const std::int32_t token : tokens_of(tokenizer(), text)) seen += spelled(stream.feed(token));
    return seen;
  };
  EXPECT_EQ(feed("<|channel|>analysis"), "");
  EXPECT_EQ(feed("<|message|>"), "{analysis }");
  EXPECT_EQ(feed("Hm"), "Hm");
  EXPECT_EQ(feed("<|end|>"), ".");
  EXPECT_EQ(feed("<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json"), "");
  EXPECT_EQ(feed("<|message|>{}"), "{commentary functions.f}{}");
  EXPECT_EQ(feed("<|call|>"), ".");
  EXPECT_EQ(spelled(stream.finish()), "");
}

TEST(ReplyStream, NeverHalfACharacter) {
  ReplyStream stream(tokenizer());
  const std::string text = "naïve — 日本語 🙂👩‍🚀 fin";
  for (const std::int32_t token : tokens_of(tokenizer(), "<|channel|>final<|message|>")) (void)stream.feed(token);
  std::string all;
  int tokens = 0, held_back = 0;
  // Byte by byte, as an unlucky tokenizer would: every token of one byte that the vocabulary has.
  for (const char byte : text) {
    const std::string wanted(1, byte);
    std::int32_t id = 0;
    while (tokenizer().bytes_of(id) != wanted || tokenizer().is_special(id)) ASSERT_LT(++id, tokenizer().vocab_size());
    const auto pieces = stream.feed(id);
    ++tokens;
    if (pieces.empty()) ++held_back;
    for (const ReplyPiece& piece : pieces) {
      EXPECT_EQ(valid_utf8_prefix(piece.text), piece.text.size()) << piece.text;
      all += piece.text;
    }
  }
  EXPECT_EQ(all, text);
  EXPECT_EQ(tokens, static_cast<int>(text.size()));
  EXPECT_GT(held_back, 15) << "all but the last byte of each longer character";
}

TEST(ReplyStream, WhatIsNoCharacterComesAsItIs) {
  ReplyStream stream(tokenizer());
  for (const std::int32_t token : tokens_of(tokenizer(), "<|channel|>final<|message|>")) (void)stream.feed(token);
  std::int32_t lead = 0;
  while (tokenizer().bytes_of(lead) != "\xe6") ASSERT_LT(++lead, tokenizer().vocab_size());
  EXPECT_EQ(spelled(stream.feed(lead)), "");
  EXPECT_EQ(spelled(stream.feed(tokens_of(tokenizer(), "a")[0])),
            "\xe6"
            "a");
  EXPECT_EQ(spelled(stream.feed(lead)), "");
  EXPECT_EQ(spelled(stream.finish()), "\xe6...") << "cut in the middle of a character";
}

}  // namespace
}  // namespace ossature
