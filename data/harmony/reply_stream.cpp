#include "data/harmony/reply_stream.h"

#include "data/utf8.h"

namespace ossature {
namespace {

/// How many bytes at the end of `bytes` are the beginning of a character that more bytes may complete.
std::size_t unfinished(std::string_view bytes) {
  for (std::size_t count = 1; count <= 3 && count <= bytes.size(); ++count) {
    const auto lead = static_cast<unsigned char>(bytes[bytes.size() - count]);
    if (lead >= 0x80 && lead < 0xc0) continue;  // not the first byte of a character
    const std::size_t length = lead >= 0xf0 && lead < 0xf5   ? 4
                               : lead >= 0xe0 && lead < 0xf0 ? 3
                               : lead >= 0xc2 && lead < 0xe0 ? 2
                                                             : 1;
    return length > count ? count : 0;
  }
  return 0;
}

}  // namespace

void ReplyStream::begin(std::vector<ReplyPiece>& pieces) {
  read_harmony_header(role_, header_, message_);
  pieces.push_back({ReplyPiece::kBegin, message_, {}});
}

void ReplyStream::end(bool complete, std::vector<ReplyPiece>& pieces) {
  if (state_ == kRole) {
    // No header at all: what stands there is content.
    if (begins_with_role_ && role_.starts_with("assistant")) role_.erase(0, 9);
    if (role_.empty()) return;
    pieces.push_back({ReplyPiece::kBegin, {}, {}});
    pieces.push_back({ReplyPiece::kText, {}, role_});
  } else if (state_ == kHeader) {
    begin(pieces);
  }
  if (!held_.empty()) pieces.push_back({ReplyPiece::kText, {}, held_});
  message_.complete = complete;
  pieces.push_back({ReplyPiece::kEnd, message_, {}});
  role_.clear();
  header_.clear();
  held_.clear();
  message_ = {};
  state_ = kRole;
}

std::vector<ReplyPiece> ReplyStream::feed(std::int32_t token) {
  std::vector<ReplyPiece> pieces;
  const auto is = [&](const char* name) { return tokenizer_.special(name) == token; };
  if (is("<|end|>") || is("<|call|>") || is("<|return|>")) {
    end(true, pieces);
  } else if (is("<|start|>")) {
    end(false, pieces);
    begins_with_role_ = true;
  } else if (is("<|channel|>") && state_ != kContent) {
    state_ = kHeader;
  } else if (is("<|message|>") && state_ != kContent) {
    begin(pieces);
    state_ = kContent;
  } else if (state_ == kContent) {
    held_ += tokenizer_.bytes_of(token);
    const std::size_t whole = held_.size() - unfinished(held_);
    if (whole > 0) pieces.push_back({ReplyPiece::kText, {}, held_.substr(0, whole)});
    held_.erase(0, whole);
  } else {
    // "to=functions.f<|constrain|>json" has two words.
    const std::string space = tokenizer_.is_special(token) ? " " : "";
    (state_ == kRole ? role_ : header_) += space + std::string(tokenizer_.bytes_of(token)) + space;
  }
  return pieces;
}

std::vector<ReplyPiece> ReplyStream::finish() {
  std::vector<ReplyPiece> pieces;
  end(false, pieces);
  begins_with_role_ = false;
  return pieces;
}

}  // namespace ossature
