#include "data/records/json_array.h"

#include <algorithm>
#include <string>

namespace ossature {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/// Ends an element that is neither a string nor in brackets.
bool ends_scalar(char c) {
  return is_space(c) || c == ',' || c == ']' || c == '}';
}

std::string quoted(char c) {
  return std::string("'") + c + "'";
}

/// Far more than a record may have; it bounds memory.
constexpr std::size_t kMaxDepth = 1 << 20;

/// Finds the end of one JSON value, fed in parts.
class ValueScanner {
 public:
  enum class State { kInside, kEnded, kMismatched, kTooDeep };

  /// Reads on from `at`, which is left behind the value, at the end of `text`, or at the bracket that does not fit.
  State scan(std::string_view text, std::size_t& at) {
    for (; at < text.size(); ++at) {
      if (in_string_ && !is_escaped_) {
        while (at < text.size() && text[at] != '"' && text[at] != '\\') ++at;
        if (at == text.size()) break;
      }
      const char c = text[at];
      if (is_escaped_) {
        is_escaped_ = false;
      } else if (in_string_) {
        is_escaped_ = c == '\\';
        in_string_ = is_escaped_;
        if (!in_string_ && open_.empty()) return ended_after(at);
      } else if (c == '"') {
        if (is_scalar_) return State::kMismatched;
        in_string_ = true;
      } else if (c == '{' || c == '[') {
        if (is_scalar_) return State::kMismatched;
        if (open_.size() == kMaxDepth) return State::kTooDeep;
        open_.push_back(c);
      } else if (open_.empty()) {
        if (ends_scalar(c)) return State::kEnded;
        is_scalar_ = true;
      } else if (c == '}' || c == ']') {
        if (open_.back() != (c == '}' ? '{' : '[')) return State::kMismatched;
        open_.pop_back();
        if (open_.empty()) return ended_after(at);
      }
    }
    return State::kInside;
  }
  [[nodiscard]] char innermost() const { return open_.empty() ? ' ' : open_.back(); }

 private:
  static State ended_after(std::size_t& at) {
    ++at;
    return State::kEnded;
  }

  std::string open_;  // the brackets around
  bool in_string_ = false, is_escaped_ = false, is_scalar_ = false;
};

}  // namespace

JsonArraySplitter::JsonArraySplitter(InputFile& file, std::int64_t line, std::int64_t column, std::size_t max_bytes)
    : file_(file), max_bytes_(max_bytes), line_(line), column_(column) {
  take(1);
}

void JsonArraySplitter::take(std::size_t size) {
  const std::string_view text = file_.window().substr(0, size);
  const auto newlines = std::count(text.begin(), text.end(), '\n');
  line_ += newlines;
  column_ =
      newlines == 0 ? column_ + static_cast<std::int64_t>(size) : static_cast<std::int64_t>(size - text.rfind('\n'));
  file_.consume(size);
}

std::optional<char> JsonArraySplitter::peek() {
  while (true) {
    const std::string_view window = file_.window();
    const auto end = std::find_if_not(window.begin(), window.end(), is_space);
    const bool is_found = end != window.end();
    take(static_cast<std::size_t>(end - window.begin()));
    if (is_found) return file_.window().front();
    if (!file_.more()) return std::nullopt;
  }
}

void JsonArraySplitter::fail(const std::string& what) const {
  throw DataError(file_.name() + ":" + std::to_string(line_) + ": " + what);
}

InputPiece JsonArraySplitter::element() {
  ++num_elements_;
  InputPiece piece{.text = {}, .line = line_, .column = column_, .is_too_long = false};
  ValueScanner scanner;
  std::size_t at = 0;
  while (true) {
    const auto state = scanner.scan(file_.window(), at);
    if (state == ValueScanner::State::kTooDeep) {
      fail("more than " + std::to_string(kMaxDepth) + " lists and objects within each other in element " +
           std::to_string(num_elements_) + " of the array; expected a record");
    }
    if (state == ValueScanner::State::kMismatched) {
      const char found = file_.window()[at];
      take(at);
      fail("column " + std::to_string(column_) + ": " + quoted(found) + " inside " +
           (scanner.innermost() == ' ' ? "a value" : quoted(scanner.innermost())) + " of element " +
           std::to_string(num_elements_) + " of the array, which begins at line " + std::to_string(piece.line) +
           "; expected valid JSON");
    }
    if (at > max_bytes_) {
      piece.is_too_long = true;
      take(at);
      at = 0;
    }
    if (state == ValueScanner::State::kEnded) break;
    if (!file_.more()) {
      fail("the file ends inside element " + std::to_string(num_elements_) + " of the array, which begins at line " +
           std::to_string(piece.line) + "; it was cut short, or a bracket or quote is not closed there");
    }
  }
  piece.text = file_.window().substr(0, at);
  to_take_ = at;
  if (piece.is_too_long) piece.text = {};
  return piece;
}

std::optional<InputPiece> JsonArraySplitter::next() {
  take(to_take_);
  to_take_ = 0;
  if (is_finished_) return std::nullopt;
  std::optional<char> c = peek();
  const auto after = [&] {
    return num_elements_ == 0 ? std::string("its \"[\"") : "element " + std::to_string(num_elements_);
  };
  if (c == ',' && num_elements_ > 0) {
    take(1);
    c = peek();
    if (c == ']' || c == ',')
      fail("',' and " + quoted(*c) + " after " + after() + " of the array; expected one more element");
  } else if (c && c != ']' && num_elements_ > 0) {
    fail(quoted(*c) + " after " + after() + " of the array; expected ',' or ']'");
  }
  if (!c) fail("the file ends inside its array, after " + after() + "; expected ']': it was cut short");
  if (c != ']') {
    if (c == ',' || c == '}' || c == ':') fail(quoted(*c) + " after " + after() + " of the array; expected an element");
    return element();
  }
  take(1);
  if (const auto more = peek()) fail(quoted(*more) + " after the end of the array; expected nothing more in the file");
  is_finished_ = true;
  return std::nullopt;
}

}  // namespace ossature
