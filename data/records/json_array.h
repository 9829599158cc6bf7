// Where the elements of a JSON array begin and end, without holding the array.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "data/records/input_file.h"

namespace ossature {

/// A piece of an input file: one line, or one element of an array.
struct InputPiece {
  std::string_view text;    // valid until the next call; empty if too long
  std::int64_t line = 1;    // where it begins, from 1
  std::int64_t column = 1;  // in bytes, from 1
  bool is_too_long = false;
};

/// Only strings, brackets and commas are looked at; whether an element is JSON is for its parser to say.
class JsonArraySplitter {
 public:
  /// The window of `file` begins with the array's "[", after `line` - 1 lines and `column` - 1 bytes. Elements longer
  /// than `max_bytes` are passed over and reported.
  JsonArraySplitter(InputFile& file, std::int64_t line, std::int64_t column, std::size_t max_bytes);

  /// The next element; nullopt after the last. Throws DataError "file:line: ..." where the array itself is broken: a
  /// comma missing, a bracket closed by another, the file ending within it, something after it.
  std::optional<InputPiece> next();

 private:
  /// The next byte that is not white space; nullopt at the end of the file. It stays in the window.
  std::optional<char> peek();
  /// Consumes bytes of the window, and counts their lines and columns.
  void take(std::size_t size);
  InputPiece element();
  [[noreturn]] void fail(const std::string& what) const;

  InputFile& file_;
  std::size_t max_bytes_;
  std::int64_t line_, column_;
  std::int64_t num_elements_ = 0;
  bool is_finished_ = false;
  std::size_t to_take_ = 0;  // the element that was returned, still in the window
};

}  // namespace ossature
