// The values of a dataset, read from where they lie in the file, without HDF5. Internal to data/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/token_file/block_cache.h"
#include "data/token_file/hdf5_layout.h"
#include "data/token_file/hdf5_process.h"

namespace ossature {

class StoredColumn {
 public:
  /// Values of the dataset `layout`, in the file of descriptor `file`, which must stay open. `index` is its place in
  /// the layout of `process`, which reads it if it is kServed. `path` names the file in messages.
  StoredColumn(std::filesystem::path path, int file, hdf5::ColumnLayout layout, std::shared_ptr<hdf5::Process> process,
               std::size_t index);
  ~StoredColumn();
  StoredColumn(const StoredColumn&) = delete;
  StoredColumn& operator=(const StoredColumn&) = delete;

  [[nodiscard]] std::int64_t length() const { return layout_.length; }

  enum class Caching { kKeep, kPass };
  /// Values first .. first + out.size(), which must be in the dataset, for T of int32, int64, uint32, uint64 or float.
  /// Integers beyond those of T become its lowest or highest, numbers beyond float infinite. Throws DataError naming
  /// dataset, positions and chunk if a chunk is damaged. Several threads may read. kPass leaves the cache to others.
  template <class T>
  void read(std::int64_t first, std::span<T> out, Caching caching = Caching::kKeep) const;

  /// Throws the DataError for damage of these values: where, and `how` it shows.
  [[noreturn]] void fail_damaged(std::int64_t first, std::int64_t count, const std::string& how) const;

 private:
  using Block = BlockCache::Block;
  [[nodiscard]] std::int64_t block_length() const;
  [[nodiscard]] Block block(std::int64_t index, Caching caching) const;
  [[nodiscard]] std::vector<std::byte> decode_chunk(std::int64_t chunk) const;
  [[nodiscard]] std::vector<std::byte> ask_process(std::int64_t first, std::int64_t count) const;
  void read_bytes(std::uint64_t address, std::span<std::byte> out, std::int64_t first, std::int64_t count) const;
  template <class T>
  void convert(const std::byte* stored, std::span<T> out) const;

  std::filesystem::path path_;
  int file_;
  hdf5::ColumnLayout layout_;
  std::shared_ptr<hdf5::Process> process_;
  std::size_t index_;
  std::uint64_t cache_owner_;
};

}  // namespace ossature
