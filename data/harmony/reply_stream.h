// What a model generates after "<|start|>assistant", message by message while it comes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/harmony/harmony_reply.h"
#include "data/tokenizer/tokenizer.h"

namespace ossature {

/// Something that a token made known.
struct ReplyPiece {
  enum Kind {
    kBegin,  // a message begins: channel and recipient are known
    kText,   // more of its content: whole characters, or bytes that are no UTF-8
    kEnd,    // it has ended
  } kind;
  GeneratedMessage message;  // of kBegin and kEnd: without its content
  std::string text;          // of kText
};

/// Takes tokens one at a time. Never throws: what a model writes may be anything, and text outside the format becomes
/// content.
class ReplyStream {
 public:
  explicit ReplyStream(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  [[nodiscard]] std::vector<ReplyPiece> feed(std::int32_t token);
  /// What is still held back when no more tokens come; the stream begins anew.
  [[nodiscard]] std::vector<ReplyPiece> finish();

 private:
  void begin(std::vector<ReplyPiece>& pieces);
  void end(bool complete, std::vector<ReplyPiece>& pieces);

  Tokenizer tokenizer_;
  enum { kRole, kHeader, kContent } state_ = kRole;
  bool begins_with_role_ = false;  // the first message's role is in the prompt
  std::string role_, header_;
  std::string held_;  // the beginning of a character
  GeneratedMessage message_;
};

}  // namespace ossature
