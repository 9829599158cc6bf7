#include "data/tokenizer/o200k_splitter.h"

#include <array>

namespace ossature {
namespace {

using Byte = unsigned char;

/// The alternatives, first match wins. "Upper" below stands for [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], "lower" for
/// [\p{Ll}\p{Lm}\p{Lo}\p{M}]: caseless letters and marks are both.
constexpr std::string_view kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr unsigned bit(CharacterClass kind) {
  return 1u << static_cast<unsigned>(kind);
}
constexpr unsigned kCaselessOrMark = bit(CharacterClass::kCaseless) | bit(CharacterClass::kMark);
constexpr unsigned kUpper = bit(CharacterClass::kUpper) | kCaselessOrMark;
constexpr unsigned kLower = bit(CharacterClass::kLower) | kCaselessOrMark;
constexpr unsigned kNumber = bit(CharacterClass::kNumber);
constexpr unsigned kWhite = bit(CharacterClass::kSpace) | bit(CharacterClass::kNewline);
constexpr unsigned kPunctuation = bit(CharacterClass::kOther) | bit(CharacterClass::kMark);  // [^\s\p{L}\p{N}]
/// [^\r\n\p{L}\p{N}]: what may stand before the letters of a word.
constexpr unsigned kBeforeLetters = kPunctuation | bit(CharacterClass::kSpace);

/// Reads the characters of a text from one place on.
class Cursor {
 public:
  Cursor(const UnicodeClasses& classes, const Byte* at, const Byte* end) : classes_(classes), at_(at), end_(end) {
    look();
  }

  [[nodiscard]] const Byte* at() const { return at_; }
  [[nodiscard]] const Byte* end() const { return end_; }
  [[nodiscard]] bool is_at_end() const { return at_ == end_; }
  /// Whether the next character is of `kinds`; none is at the end.
  [[nodiscard]] bool is(unsigned kinds) const { return (kind_ & kinds) != 0; }
  [[nodiscard]] const Byte* next() const { return at_ + length_; }

  void advance() {
    at_ += length_;
    look();
  }
  void skip(unsigned kinds) {
    while (is(kinds)) advance();
  }

 private:
  void look() {
    if (at_ == end_) {
      kind_ = 0;
      length_ = 0;
      return;
    }
    const std::uint32_t first = *at_;
    std::uint32_t code = first;
    if (first < 0x80) {
      length_ = 1;
    } else if (first < 0xe0) {
      code = (first & 0x1f) << 6 | (at_[1] & 0x3fu);
      length_ = 2;
    } else if (first < 0xf0) {
      code = (first & 0x0f) << 12 | (at_[1] & 0x3fu) << 6 | (at_[2] & 0x3fu);
      length_ = 3;
    } else {
      code = (first & 0x07) << 18 | (at_[1] & 0x3fu) << 12 | (at_[2] & 0x3fu) << 6 | (at_[3] & 0x3fu);
      length_ = 4;
    }
    kind_ = bit(classes_[code]);
  }

  const UnicodeClasses& classes_;
  const Byte* at_;
  const Byte* end_;
  unsigned kind_ = 0;
  int length_ = 0;
};

/// Behind (?i:'s|'t|'re|'ve|'m|'ll|'d)?; the long s folds to s as well.
const Byte* after_contraction(const Byte* at, const Byte* end) {
  if (end - at < 2 || *at != '\'') return at;
  const auto lower = [&](int i) { return end - at > i ? at[i] | 0x20 : 0; };
  switch (lower(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return at + 2;
    case 'r':
    case 'v':
      return lower(2) == 'e' ? at + 3 : at;
    case 'l':
      return lower(2) == 'l' ? at + 3 : at;
    default:
      return end - at >= 3 && at[1] == 0xc5 && at[2] == 0xbf ? at + 3 : at;
  }
}

/// The first two alternatives at `cursor`; nullptr if neither matches.
const Byte* end_of_letters(Cursor cursor) {
  // A mark is taken for what precedes letters first, but it can be a word alone.
  const Byte* const after_mark = cursor.is(bit(CharacterClass::kMark)) ? cursor.next() : nullptr;
  if (cursor.is(kBeforeLetters)) cursor.advance();
  const Byte* const letters = cursor.at();
  const Byte* after_caseless = nullptr;
  while (cursor.is(kUpper)) {
    const bool is_caseless = cursor.is(kCaselessOrMark);
    cursor.advance();
    if (is_caseless) after_caseless = cursor.at();
  }
  if (cursor.is(kLower)) {
    cursor.skip(kLower);
    return after_contraction(cursor.at(), cursor.end());
  }
  // "Lower" needs one character: the engine gives back "upper" ones until the last is one that is both.
  if (after_caseless != nullptr) return after_contraction(after_caseless, cursor.end());
  if (after_mark != nullptr) return after_contraction(after_mark, cursor.end());
  return cursor.at() != letters ? after_contraction(cursor.at(), cursor.end()) : nullptr;
}

/// The last three alternatives: white space, which `cursor` stands before.
const Byte* end_of_white(Cursor cursor) {
  const Byte* after_newline = nullptr;
  const Byte* last = cursor.at();
  const Byte* const begin = cursor.at();
  while (cursor.is(kWhite)) {
    last = cursor.at();
    const bool is_newline = cursor.is(bit(CharacterClass::kNewline));
    cursor.advance();
    if (is_newline) after_newline = cursor.at();
  }
  if (after_newline != nullptr) return after_newline;
  // The last one goes with the word that follows, unless there is none or it stands alone.
  return cursor.is_at_end() || last == begin ? cursor.at() : last;
}

}  // namespace

bool O200kSplitter::knows(std::string_view pattern) {
  return pattern == kPattern;
}

std::size_t O200kSplitter::end_of_word(std::string_view text, std::size_t begin) const {
  const auto* const bytes = reinterpret_cast<const Byte*>(text.data());
  const Byte* const end = bytes + text.size();
  Cursor cursor(classes_, bytes + begin, end);
  const auto found = [&](const Byte* at) { return static_cast<std::size_t>(at - bytes); };
  if (!cursor.is(kNumber | bit(CharacterClass::kNewline))) {
    if (const Byte* letters = end_of_letters(cursor)) return found(letters);
  }
  if (cursor.is(kNumber)) {
    for (int i = 0; i < 3 && cursor.is(kNumber); ++i) cursor.advance();
    return found(cursor.at());
  }
  Cursor punctuation = cursor;
  if (*cursor.at() == ' ') punctuation.advance();
  if (punctuation.is(kPunctuation)) {
    punctuation.skip(kPunctuation);
    const Byte* at = punctuation.at();
    while (at < end && (*at == '\r' || *at == '\n' || *at == '/')) ++at;
    return found(at);
  }
  return found(end_of_white(cursor));
}

}  // namespace ossature
