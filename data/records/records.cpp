#include "data/records/records.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "data/records/input_file.h"
#include "data/records/json_array.h"
#include "data/utf8.h"

namespace ossature {
namespace {

/// The lines of a file that are not empty, without what ends them.
class LineSplitter {
 public:
  /// The window of `file` begins at `column` of `line`.
  LineSplitter(InputFile& file, std::int64_t line, std::int64_t column, std::size_t max_bytes)
      : file_(file), max_bytes_(max_bytes), line_(line), column_(column) {}

  std::optional<InputPiece> next() {
    while (true) {
      file_.consume(to_consume_);
      to_consume_ = 0;
      InputPiece piece = line();
      if (is_finished_) return std::nullopt;
      if (piece.is_too_long || piece.text.find_first_not_of(" \t\r\f\v") != std::string_view::npos) return piece;
    }
  }

 private:
  InputPiece line() {
    InputPiece piece{.text = {}, .line = line_++, .column = column_, .is_too_long = false};
    column_ = 1;
    std::size_t searched = 0;
    while (true) {
      const std::string_view window = file_.window();
      const std::size_t end = window.find('\n', searched);
      searched = std::min(end, window.size());
      if (searched > max_bytes_) {
        piece.is_too_long = true;
        file_.consume(searched);
        searched = 0;
      }
      if (end == std::string_view::npos && file_.more()) continue;
      is_finished_ = end == std::string_view::npos && searched == 0 && !piece.is_too_long;
      if (!piece.is_too_long) piece.text = file_.window().substr(0, searched);
      if (piece.text.ends_with('\r')) piece.text.remove_suffix(1);
      to_consume_ = searched + (end == std::string_view::npos ? 0 : 1);
      return piece;
    }
  }

  InputFile& file_;
  std::size_t max_bytes_;
  std::int64_t line_, column_;
  std::size_t to_consume_ = 0;
  bool is_finished_ = false;
};

/// A file that is one text.
std::optional<InputPiece> whole_text(InputFile& file, std::size_t max_bytes) {
  InputPiece piece;
  do {
    piece.is_too_long = file.window().size() > max_bytes;
  } while (!piece.is_too_long && file.more());
  if (!piece.is_too_long) piece.text = file.window();
  if (!piece.is_too_long && piece.text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos) return std::nullopt;
  return piece;
}

/// By its name; "notes.txt.gz" too.
bool is_text_file(std::filesystem::path path) {
  const auto extension = [&] {
    std::string text = path.extension().string();
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
  };
  if (extension() == ".gz" || extension() == ".zst") path.replace_extension();
  return extension() == ".txt" || extension() == ".md";
}

std::string error_of(const InputPiece& piece, std::size_t max_bytes, bool is_plain_text) {
  const char* const what = is_plain_text ? "text file" : "record";
  if (piece.is_too_long) {
    return std::string("a ") + what + " of more than " + std::to_string(max_bytes) +
           " bytes; expected at most so many: split it, or raise the limit";
  }
  const std::size_t valid = valid_utf8_prefix(piece.text);
  const std::size_t bad = is_plain_text ? std::min(valid, piece.text.find('\0')) : valid;
  if (bad == piece.text.size()) return "";
  const std::string_view before = piece.text.substr(0, bad);
  const auto newlines = std::count(before.begin(), before.end(), '\n');
  const auto in_line = static_cast<std::int64_t>(newlines == 0 ? bad : bad - before.rfind('\n') - 1);
  char hex[8];
  std::snprintf(hex, sizeof hex, "0x%02X", static_cast<unsigned>(static_cast<unsigned char>(piece.text[bad])));
  return std::string("not UTF-8 at ") + (newlines == 0 ? "" : "line " + std::to_string(piece.line + newlines) + ", ") +
         "byte " + std::to_string(in_line + (newlines == 0 ? piece.column : 1)) + ": " + hex +
         "; expected UTF-8: convert the file (iconv -t UTF-8) or remove the byte";
}

}  // namespace

/// One input, open.
class RecordReader::Source {
 public:
  Source(const std::filesystem::path& path, const RecordOptions& options)
      : file_(path, options.while_waiting), max_bytes_(options.max_record_bytes), is_plain_text_(is_text_file(path)) {
    if (is_plain_text_) return;
    std::int64_t line = 1, column = 1;
    while (true) {
      const std::string_view window = file_.window();
      const std::size_t spaces = std::min(window.find_first_not_of(" \t\r\n"), window.size());
      const auto blank = window.substr(0, spaces);
      const auto newlines = std::count(blank.begin(), blank.end(), '\n');
      if (newlines > 0) column = 1;
      line += newlines;
      column += static_cast<std::int64_t>(newlines == 0 ? spaces : spaces - blank.rfind('\n') - 1);
      file_.consume(spaces);
      if (!file_.window().empty() || !file_.more()) break;
    }
    if (file_.window().starts_with('[')) {
      array_.emplace(file_, line, column, max_bytes_);
    } else {
      lines_.emplace(file_, line, column, max_bytes_);
    }
  }

  /// nullopt at the end of the input.
  std::optional<Record> next() {
    const std::optional<InputPiece> piece = next_piece();
    if (!piece) return std::nullopt;
    Record record;
    record.file = file_.name();
    record.line = piece->line;
    record.column = piece->column;
    record.is_plain_text = is_plain_text_;
    record.error = error_of(*piece, max_bytes_, is_plain_text_);
    if (record.error.empty()) record.text = piece->text;
    return record;
  }

  [[nodiscard]] std::int64_t bytes_read() const { return file_.bytes_read(); }

 private:
  std::optional<InputPiece> next_piece() {
    if (array_) return array_->next();
    if (lines_) return lines_->next();
    if (is_finished_) return std::nullopt;
    is_finished_ = true;
    return whole_text(file_, max_bytes_);
  }

  InputFile file_;
  std::size_t max_bytes_;
  bool is_plain_text_;
  bool is_finished_ = false;
  std::optional<JsonArraySplitter> array_;
  std::optional<LineSplitter> lines_;
};

RecordReader::RecordReader(std::vector<std::filesystem::path> inputs, RecordOptions options)
    : inputs_(std::move(inputs)), options_(options) {
  if (std::count(inputs_.begin(), inputs_.end(), "-") > 1) {
    throw DataError("standard input (-) is given twice; it can be read once");
  }
  bool is_known = true;
  for (const auto& input : inputs_) {
    const auto size = check_input_file(input);
    is_known = is_known && size;
    bytes_total_ += size.value_or(0);
  }
  if (!is_known) bytes_total_ = 0;
}

RecordReader::~RecordReader() = default;

bool RecordReader::open_next() {
  if (next_input_ == inputs_.size()) return false;
  source_ = std::make_unique<Source>(inputs_[next_input_++], options_);
  return true;
}

std::vector<Record> RecordReader::next_block(std::size_t max_records, std::size_t max_bytes) {
  if (failure_) std::rethrow_exception(failure_);
  std::vector<Record> block;
  std::size_t bytes = 0;
  try {
    while (block.size() < max_records && bytes < max_bytes) {
      if (!source_ && !open_next()) break;
      std::optional<Record> record = source_->next();
      if (!record) {
        bytes_before_ += source_->bytes_read();
        source_.reset();
        continue;
      }
      bytes += record->text.size();
      block.push_back(std::move(*record));
    }
  } catch (...) {
    // Of two mistakes the earlier counts: the records before this one are looked at first.
    failure_ = std::current_exception();
    if (block.empty()) throw;
  }
  return block;
}

std::int64_t RecordReader::bytes_done() const {
  return bytes_before_ + (source_ ? source_->bytes_read() : 0);
}

}  // namespace ossature
