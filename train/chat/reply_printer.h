// A reply on a stream while it comes, its channels told apart.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "data/harmony/reply_stream.h"

namespace ossature {

struct ReplyStyle {
  bool has_thinking = true;  // the analysis channel is printed too
  bool is_terminal = false;  // thinking is dimmed rather than named, and nothing can act on the terminal
};

/// A message a line or more: the final channel as it is, others after "[thinking] ", "[commentary] ", or the recipient
/// of a call.
class ReplyPrinter {
 public:
  /// `out` and `tokenizer`'s tables must outlive it.
  ReplyPrinter(std::ostream& out, const Tokenizer& tokenizer, ReplyStyle style)
      : out_(out), stream_(tokenizer), style_(style) {}

  void feed(std::int32_t token) { print(stream_.feed(token)); }
  void finish() { print(stream_.finish()); }

 private:
  void print(const std::vector<ReplyPiece>& pieces);

  std::ostream& out_;
  ReplyStream stream_;
  ReplyStyle style_;
  bool is_shown_ = true, is_dimmed_ = false;  // the present message
};

[[nodiscard]] bool is_terminal(int descriptor);
/// Columns of the terminal at `descriptor`, else of COLUMNS, else 0.
[[nodiscard]] std::size_t terminal_width(int descriptor);

/// Two texts under their titles: beside each other in columns if `width` allows 40 characters for each, else one below
/// the other.
[[nodiscard]] std::string side_by_side(const std::string& left_title, const std::string& left,
                                       const std::string& right_title, const std::string& right, std::size_t width);

}  // namespace ossature
