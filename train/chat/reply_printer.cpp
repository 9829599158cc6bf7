#include "train/chat/reply_printer.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "train/text/visible_text.h"

namespace ossature {
namespace {

constexpr const char* kDim = "\x1b[2m";
constexpr const char* kPlain = "\x1b[0m";
constexpr std::size_t kNarrowest = 40;  // of a column

std::string shown(const std::string& text) {
  std::string result;
  for (const VisiblePiece& piece : visible_pieces(text)) {
    result += piece.kind == VisiblePiece::kNewline ? "\n" : piece.text;
  }
  return result;
}

/// Characters, as many columns as most scripts take.
std::size_t width_of(std::string_view text) {
  std::size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80 ? 1 : 0;
  return count;
}

/// `text` in lines of at most `width` characters, broken at spaces where there are any.
std::vector<std::string> wrapped(const std::string& text, std::size_t width) {
  std::vector<std::string> lines(1);
  std::string word;
  const auto put = [&] {
    if (!lines.back().empty() && width_of(lines.back()) + width_of(word) > width) lines.emplace_back();
    for (const char c : word) {
      const bool begins_character = (static_cast<unsigned char>(c) & 0xc0) != 0x80;
      if (begins_character && width_of(lines.back()) == width) lines.emplace_back();
      lines.back() += c;
    }
    word.clear();
  };
  for (const char c : text) {
    if (c == ' ' || c == '\n') put();
    if (c == '\n') lines.emplace_back();
    if (c == ' ' && width_of(lines.back()) < width) lines.back() += c;
    if (c != ' ' && c != '\n') word += c;
  }
  put();
  return lines;
}

}  // namespace

bool is_terminal(int descriptor) {
  return ::isatty(descriptor) == 1;
}

std::size_t terminal_width(int descriptor) {
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  return columns == nullptr ? 0 : std::strtoul(columns, nullptr, 10);
}

void ReplyPrinter::print(const std::vector<ReplyPiece>& pieces) {
  for (const ReplyPiece& piece : pieces) {
    const GeneratedMessage& message = piece.message;
    switch (piece.kind) {
      case ReplyPiece::kBegin: {
        const bool is_thinking = message.channel == "analysis" && message.recipient.empty();
        is_shown_ = style_.has_thinking || !is_thinking;
        is_dimmed_ = is_thinking && style_.is_terminal;
        if (!is_shown_) break;
        if (is_dimmed_) {
          out_ << kDim;
        } else if (is_thinking) {
          out_ << "[thinking] ";
        } else if (!message.recipient.empty()) {
          out_ << "[" << (style_.is_terminal ? shown(message.recipient) : message.recipient) << "] ";
        } else if (message.channel == "commentary") {
          out_ << "[commentary] ";
        }
        break;
      }
      case ReplyPiece::kText:
        if (is_shown_) out_ << (style_.is_terminal ? shown(piece.text) : piece.text);
        break;
      case ReplyPiece::kEnd:
        if (is_shown_) out_ << (is_dimmed_ ? kPlain : "") << "\n";
        break;
    }
  }
  out_.flush();
}

std::string side_by_side(const std::string& left_title, const std::string& left, const std::string& right_title,
                         const std::string& right, std::size_t width) {
  if (width < 2 * kNarrowest + 3) return left_title + "\n" + left + "\n\n" + right_title + "\n" + right + "\n";
  const std::size_t column = (width - 3) / 2;
  auto left_lines = wrapped(left_title + "\n" + left, column),
       right_lines = wrapped(right_title + "\n" + right, column);
  std::string text;
  for (std::size_t n = 0; n < std::max(left_lines.size(), right_lines.size()); ++n) {
    const std::string of_left = n < left_lines.size() ? left_lines[n] : "";
    text += of_left + std::string(column - std::min(column, width_of(of_left)), ' ') + " |";
    if (n < right_lines.size() && !right_lines[n].empty()) text += " " + right_lines[n];
    text += "\n";
  }
  return text;
}

}  // namespace ossature
