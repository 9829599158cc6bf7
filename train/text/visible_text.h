// Bytes of anybody's making, as text that can be shown: it cannot act on a terminal, and what does not show is spelled
// out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ossature {

/// A stretch of text, an escape that stands for what does not show, or the end of a line.
struct VisiblePiece {
  enum Kind { kText, kEscape, kNewline } kind;
  std::string text;  // UTF-8; "" for kNewline
};

/// Cuts `bytes` into pieces, in order. Escapes are "\x1b" for control characters and for each byte that is not UTF-8,
/// "\u{202e}" for characters beyond ASCII that control, reorder or hide text. Tabs are text.
[[nodiscard]] std::vector<VisiblePiece> visible_pieces(std::string_view bytes);

/// The same on one line: newlines and tabs are "\n" and "\t".
[[nodiscard]] std::string visible_line(std::string_view bytes);

}  // namespace ossature
