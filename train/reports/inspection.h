// What a path holds, found out from headers and logs alone: no tensor is read. Of a token file everything is, unless
// the parts of train/reports/token_report.h are used one by one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace ossature {

struct Recipe;
struct RunHistory;

/// Named values and tables, for people (to_text) and for programs (to_json).
struct Inspection {
  using Value = std::variant<std::int64_t, double, std::string, std::vector<std::string>, bool>;
  struct Table {
    std::string name;
    std::vector<std::string> columns;
    std::vector<std::vector<Value>> rows;
    std::string bars_of = {};  // a column of counts that the text also draws
  };

  std::string kind;  // checkpoint, adapter, token file, run, safetensors file; "" for a part without a title
  std::filesystem::path path;
  // A name that ends in "bytes" counts bytes, one that ends in "share" is a part of 1.
  std::vector<std::pair<std::string, Value>> fields;
  std::vector<Table> tables;
};

/// Recognises a checkpoint folder (either layout), an adapter folder, a run folder, a token file or a single
/// safetensors file; the channels of a token file are told by `tokenizer` (add_contents() in
/// train/reports/token_report.h). Throws CheckpointError if `path` is none of these, and what their readers throw if it
/// is a broken one.
[[nodiscard]] Inspection inspect(const std::filesystem::path& path, const std::filesystem::path& tokenizer = {});

/// Of a run folder, of what was already read.
[[nodiscard]] Inspection inspect_run(const std::filesystem::path& dir, const Recipe& recipe, const RunHistory& history);

/// A value as people read it: integers with separators, bytes in GB, shares in percent. `name` is that of its field or
/// column. Text of files is as it was, control characters too.
[[nodiscard]] std::string value_text(const std::string& name, const Inspection::Value& value);
/// "last loss" of "last_loss", "stored" of "stored_bytes".
[[nodiscard]] std::string title_of(std::string name);

/// One line a value, then the tables; integers with separators, bytes in GB.
[[nodiscard]] std::string to_text(const Inspection& inspection);
/// One object: "kind", "path", the fields, and each table as an array of objects.
[[nodiscard]] std::string to_json(const Inspection& inspection);

}  // namespace ossature
