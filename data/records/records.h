// From files to records: the JSON texts and plain texts that they hold, one after the other.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/data_error.h"

namespace ossature {

/// One JSON line, one element of a JSON array, or one text file.
struct Record {
  std::string text;         // JSON, or the plain text itself; UTF-8 unless there is an error
  std::string file;         // as it was given, or "standard input"
  std::int64_t line = 1;    // where the text begins in the file, from 1
  std::int64_t column = 1;  // in bytes, from 1
  bool is_plain_text = false;
  std::string error;  // what is wrong with the record as such: not UTF-8, too long. SampleParser throws it

  /// "chats.jsonl:12".
  [[nodiscard]] std::string place() const { return file + ":" + std::to_string(line); }
};

struct RecordOptions {
  /// A longer line, element or text file is an error: it bounds memory.
  std::size_t max_record_bytes = 64 << 20;
  /// Called a few times a second while a pipe or terminal has nothing to read yet; what it throws ends reading.
  std::function<void()> while_waiting{};
};

/// Reads several inputs in order: .jsonl (also called .json or anything else), one .json array of objects, .txt and .md
/// files (one record a file), each also in gzip or zstd, and "-", standard input. Whether a file is an array is told by
/// its first character, compression by its first bytes. Empty lines and empty text files are passed over. Memory stays
/// within about three times max_record_bytes and what the caller asks for at once.
///
/// What is wrong with one record alone (not UTF-8, too long) is in its `error`, and reading can go on behind it. Where
/// the file itself is broken, DataError "file:line: ..." is thrown, and reading cannot go on.
class RecordReader {
 public:
  /// Throws DataError for an input that is absent, a directory, not readable, or standard input given twice.
  explicit RecordReader(std::vector<std::filesystem::path> inputs, RecordOptions options = {});
  ~RecordReader();
  RecordReader(const RecordReader&) = delete;
  RecordReader& operator=(const RecordReader&) = delete;

  /// The next records in order: at most so many, and no more once their texts have so many bytes. Empty at the
  /// end. What is thrown comes only after all the records before it were returned.
  [[nodiscard]] std::vector<Record> next_block(std::size_t max_records, std::size_t max_bytes);

  /// How far reading is in the files as they lie on the disk, and their size; 0 if that of one is not known.
  [[nodiscard]] std::int64_t bytes_done() const;
  [[nodiscard]] std::int64_t bytes_total() const { return bytes_total_; }

 private:
  class Source;

  bool open_next();

  std::vector<std::filesystem::path> inputs_;
  RecordOptions options_;
  std::size_t next_input_ = 0;
  std::unique_ptr<Source> source_;  // the input being read
  std::int64_t bytes_before_ = 0;   // of inputs that are done
  std::int64_t bytes_total_ = 0;
  std::exception_ptr failure_;  // met behind the records of the last block
};

}  // namespace ossature
