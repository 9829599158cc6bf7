// The little of HDF5's C API that token files need, with owned handles and errors that name the file. Internal to
// data/.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace ossature::hdf5 {

/// Values a chunk of a dataset that is read at random: a sample of 600 tokens inflates 2,650 tokens on average. Chunks
/// of 4,096 inflate 4,700 and are read at 0.7 times the rate; files are 2 % smaller.
inline constexpr std::int64_t kRandomAccessChunk = 2048;
/// Bytes a chunk of others, which stays in HDF5's default chunk cache.
inline constexpr std::int64_t kSequentialChunkBytes = 256 << 10;

/// An HDF5 identifier that is closed with its owner.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, H5I_INVALID_HID);
      close_ = other.close_;
    }
    return *this;
  }
  [[nodiscard]] hid_t get() const { return id_; }
  [[nodiscard]] bool is_valid() const { return id_ >= 0; }
  /// Closes now; false if HDF5 reports a failure (for a file: that it could not be flushed).
  bool reset() {
    const bool ok = id_ < 0 || close_(id_) >= 0;
    id_ = H5I_INVALID_HID;
    return ok;
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

/// The one lock around HDF5, to be held for every call: Debian's library is thread-safe by such a lock of its own,
/// other builds are not safe at all. Keeps HDF5 from printing its error stack on the calling thread: our messages say
/// what matters.
[[nodiscard]] std::unique_lock<std::mutex> lock_library();

/// Throws the DataError for a file that breaks the format: `path`, `what`, and what to do.
[[noreturn]] void fail_format(const std::filesystem::path& path, const std::string& what);

/// A new file, in place of an old one; invalid when HDF5 fails. Its metadata carry checksums (HDF5 1.10's layout): with
/// the older default a flipped bit could crash the library or pass for other data.
Handle create_file(const std::filesystem::path& path);

/// Attribute `name` of the root group. Throws DataError naming `path` if absent or of another type.
std::int64_t read_integer_attribute(const Handle& file, const char* name, const std::filesystem::path& path);
std::string read_string_attribute(const Handle& file, const char* name, const std::filesystem::path& path);
bool has_attribute(const Handle& file, const char* name);
/// Return false when HDF5 fails.
bool write_integer_attribute(const Handle& file, const char* name, std::int64_t value);
bool write_string_attribute(const Handle& file, const char* name, const std::string& value);

/// A dataset of one dimension, its length, and the values of a chunk (0: not chunked).
struct Column {
  Handle dataset;
  std::int64_t length = 0;
  std::int64_t chunk = 0;
};
/// Opens dataset `name` and checks that it has one dimension and values of class `type` (H5T_INTEGER or H5T_FLOAT).
/// Throws DataError.
Column open_column(const Handle& file, const char* name, H5T_class_t type, const std::filesystem::path& path);

/// Reads `count` values from `first` as `memory_type` into `out`; false when HDF5 fails (damage, mostly).
bool read_column(const Column& column, std::int64_t first, std::int64_t count, hid_t memory_type, void* out);

/// Writes a new, extendible column of one dimension, chunked, with deflate 1 and Fletcher32. Its chunks are compressed
/// here, outside of HDF5, in half the time. Functions return false when HDF5 fails (a full disk, mostly); each takes
/// the library's lock, so the caller must not hold it.
class ColumnWriter {
 public:
  /// `chunk`: values a chunk.
  ColumnWriter(const Handle& file, const char* name, hid_t stored_type, std::int64_t chunk);
  ~ColumnWriter();
  ColumnWriter(ColumnWriter&&) noexcept;
  ColumnWriter& operator=(ColumnWriter&&) noexcept;

  /// Appends values in the stored type and the machine's byte order, which is little-endian.
  [[nodiscard]] bool append(std::int64_t count, const void* values);
  /// Writes what is left and closes the dataset.
  [[nodiscard]] bool finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ossature::hdf5
