// Where the parts of a token file lie in it: all that is needed to read them without HDF5. Made in a child process
// (data/token_file/hdf5_process.h), since HDF5 is not safe on hostile files. Internal to data/.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace ossature::hdf5 {

/// The filters that data/token_file/stored_column.h undoes; a dataset with another is read by the child
/// (Storage::kServed).
enum class Filter : std::uint8_t { kShuffle, kDeflate, kFletcher32 };

enum class Storage : std::uint8_t { kContiguous, kChunked, kServed };

/// A dataset of one dimension with `length` values.
struct ColumnLayout {
  std::string name;
  std::int64_t length = 0;
  Storage storage = Storage::kServed;
  // Of the stored values; kServed gives int64 or double.
  bool is_float = false, is_signed = true, is_big_endian = false;
  std::int64_t element_size = 8;  // 1, 2, 4, 8 bytes; floating point: 4 or 8
  std::uint64_t address = 0;      // kContiguous: position in the file
  std::int64_t chunk = 0;         // values a chunk; 0: not chunked
  // kChunked:
  std::vector<Filter> filters;               // in the order in which they were applied
  std::vector<std::uint64_t> addresses;      // of each chunk
  std::vector<std::uint32_t> stored_sizes;   // of each chunk, in bytes; 0: the chunk was never written
  std::vector<std::uint32_t> skipped_masks;  // bit i: filter i was not applied; empty: all were, in every chunk
};

struct FileLayout {
  std::map<std::string, std::int64_t> integers;  // attributes of the root group
  std::map<std::string, std::string> texts;
  std::vector<ColumnLayout> columns;

  /// The place of the dataset `name` in `columns`.
  [[nodiscard]] std::optional<std::size_t> find(const std::string& name) const {
    for (std::size_t i = 0; i < columns.size(); ++i) {
      if (columns[i].name == name) return i;
    }
    return std::nullopt;
  }
};

}  // namespace ossature::hdf5
