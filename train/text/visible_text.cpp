#include "train/text/visible_text.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "data/utf8.h"

namespace ossature {
namespace {

struct Character {
  char32_t code;
  std::size_t size;  // bytes
};

/// The first character of valid UTF-8.
Character first_character(std::string_view valid) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(valid[i]); };
  const unsigned lead = byte(0);
  const std::size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  char32_t code = size == 1 ? lead : lead & (0x7fu >> size);
  for (std::size_t i = 1; i < size; ++i) code = code << 6 | (byte(i) & 0x3fu);
  return {code, size};
}

struct Range {
  char32_t first, last;
};

/// Besides controls: what reorders or ends lines, and what takes no room (but for the joiners that emoji and several
/// scripts are written with).
bool is_hidden(char32_t code) {
  constexpr Range kHidden[] = {{0x00, 0x08},     {0x0b, 0x1f},     {0x7f, 0x9f},     {0xad, 0xad},
                               {0x61c, 0x61c},   {0x200b, 0x200b}, {0x200e, 0x200f}, {0x2028, 0x202e},
                               {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe0fff}};
  return std::any_of(std::begin(kHidden), std::end(kHidden),
                     [code](const Range& range) { return code >= range.first && code <= range.last; });
}

std::string escape(const char* format, unsigned value) {
  char buffer[24];
  std::snprintf(buffer, sizeof buffer, format, value);
  return buffer;
}

void add(std::vector<VisiblePiece>& pieces, VisiblePiece::Kind kind, std::string_view text) {
  if (kind == VisiblePiece::kNewline || pieces.empty() || pieces.back().kind != kind) pieces.push_back({kind, {}});
  pieces.back().text += text;
}

}  // namespace

std::vector<VisiblePiece> visible_pieces(std::string_view bytes) {
  std::vector<VisiblePiece> pieces;
  while (!bytes.empty()) {
    std::string_view valid = bytes.substr(0, valid_utf8_prefix(bytes));
    bytes.remove_prefix(valid.size());
    while (!valid.empty()) {
      const Character character = first_character(valid);
      if (character.code == '\n') {
        add(pieces, VisiblePiece::kNewline, "");
      } else if (!is_hidden(character.code)) {
        add(pieces, VisiblePiece::kText, valid.substr(0, character.size));
      } else {
        add(pieces, VisiblePiece::kEscape,
            escape(character.code < 0x80 ? "\\x%02x" : "\\u{%x}", static_cast<unsigned>(character.code)));
      }
      valid.remove_prefix(character.size);
    }
    if (bytes.empty()) break;
    add(pieces, VisiblePiece::kEscape, escape("\\x%02x", static_cast<unsigned char>(bytes.front())));
    bytes.remove_prefix(1);
  }
  return pieces;
}

std::string visible_line(std::string_view bytes) {
  std::string line;
  for (const VisiblePiece& piece : visible_pieces(bytes)) {
    if (piece.kind == VisiblePiece::kNewline) line += "\\n";
    for (const char c : piece.text) line += c == '\t' ? std::string("\\t") : std::string(1, c);
  }
  return line;
}

}  // namespace ossature
