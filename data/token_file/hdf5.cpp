#include "data/token_file/hdf5.h"

#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "data/data_error.h"
#include "data/token_file/fletcher32.h"

namespace ossature::hdf5 {
namespace {

Handle string_type(std::size_t size) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), size);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  return type;
}

Handle open_attribute(const Handle& file, const char* name, H5T_class_t type_class, const char* expected,
                      const std::filesystem::path& path) {
  if (!has_attribute(file, name)) fail_format(path, std::string("attribute \"") + name + "\" is missing");
  Handle attribute(H5Aopen(file.get(), name, H5P_DEFAULT), H5Aclose);
  const Handle type(H5Aget_type(attribute.get()), H5Tclose);
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  if (!attribute.is_valid() || H5Tget_class(type.get()) != type_class ||
      H5Sget_simple_extent_npoints(space.get()) != 1) {
    fail_format(path, std::string("attribute \"") + name + "\" is not " + expected);
  }
  return attribute;
}

}  // namespace

void fail_format(const std::filesystem::path& path, const std::string& what) {
  throw DataError(path.string() + ": " + what +
                  "; make the file with ossature prepare, or as data/README.md describes");
}

std::unique_lock<std::mutex> lock_library() {
  static std::mutex mutex;
  std::unique_lock lock(mutex);
  // At exit HDF5 would close again what a full disk kept it from closing, and crash. Handles close all there is.
  static const herr_t no_atexit = H5dont_atexit();
  static_cast<void>(no_atexit);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  return lock;
}

Handle create_file(const std::filesystem::path& path) {
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  const Handle properties(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(properties.get(), false);  // equal content gives equal bytes, whenever it is written
  return {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, properties.get(), access.get()), H5Fclose};
}

bool has_attribute(const Handle& file, const char* name) {
  return H5Aexists(file.get(), name) > 0;
}

std::int64_t read_integer_attribute(const Handle& file, const char* name, const std::filesystem::path& path) {
  const Handle attribute = open_attribute(file, name, H5T_INTEGER, "one integer", path);
  std::int64_t value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0)
    fail_format(path, std::string("attribute \"") + name + "\" is unreadable");
  return value;
}

std::string read_string_attribute(const Handle& file, const char* name, const std::filesystem::path& path) {
  const Handle attribute = open_attribute(file, name, H5T_STRING, "one string", path);
  const Handle stored(H5Aget_type(attribute.get()), H5Tclose);
  if (H5Tis_variable_str(stored.get()) > 0) {
    char* text = nullptr;
    const Handle type = string_type(H5T_VARIABLE);
    H5Tset_cset(type.get(), H5Tget_cset(stored.get()));
    if (H5Aread(attribute.get(), type.get(), &text) < 0 || text == nullptr) {
      fail_format(path, std::string("attribute \"") + name + "\" is unreadable");
    }
    std::string value = text;
    H5free_memory(text);
    return value;
  }
  const auto size = H5Tget_size(stored.get());
  constexpr std::size_t kLongest = 16 << 20;
  if (size > kLongest) fail_format(path, std::string("attribute \"") + name + "\" is too long");
  std::string value(size, '\0');
  if (H5Aread(attribute.get(), stored.get(), value.data()) < 0) {
    fail_format(path, std::string("attribute \"") + name + "\" is unreadable");
  }
  value.resize(value.find('\0') == std::string::npos ? value.size() : value.find('\0'));
  return value;
}

bool write_integer_attribute(const Handle& file, const char* name, std::int64_t value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(file.get(), name, H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  return attribute.is_valid() && H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value) >= 0;
}

bool write_string_attribute(const Handle& file, const char* name, const std::string& value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  // Of fixed length: those of variable length lie in a heap without a checksum.
  const Handle type = string_type(std::max<std::size_t>(value.size(), 1));
  const Handle attribute(H5Acreate2(file.get(), name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  return attribute.is_valid() && H5Awrite(attribute.get(), type.get(), value.c_str()) >= 0;
}

Column open_column(const Handle& file, const char* name, H5T_class_t type_class, const std::filesystem::path& path) {
  if (H5Lexists(file.get(), name, H5P_DEFAULT) <= 0) fail_format(path, std::string("dataset ") + name + " is missing");
  Column column;
  column.dataset = Handle(H5Dopen2(file.get(), name, H5P_DEFAULT), H5Dclose);
  if (!column.dataset.is_valid()) fail_format(path, std::string(name) + " is not a readable dataset");
  const Handle space(H5Dget_space(column.dataset.get()), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank != 1)
    fail_format(path, std::string("dataset ") + name + " has " + std::to_string(rank) + " dimensions, expected 1");
  const Handle type(H5Dget_type(column.dataset.get()), H5Tclose);
  if (H5Tget_class(type.get()) != type_class) {
    fail_format(path, std::string("dataset ") + name + " holds no " +
                          (type_class == H5T_INTEGER ? "integers" : "floating-point numbers"));
  }
  hsize_t length = 0;
  H5Sget_simple_extent_dims(space.get(), &length, nullptr);
  column.length = static_cast<std::int64_t>(length);
  const Handle properties(H5Dget_create_plist(column.dataset.get()), H5Pclose);
  hsize_t chunk = 0;
  if (H5Pget_layout(properties.get()) == H5D_CHUNKED && H5Pget_chunk(properties.get(), 1, &chunk) == 1) {
    column.chunk = static_cast<std::int64_t>(chunk);
  }
  return column;
}

bool read_column(const Column& column, std::int64_t first, std::int64_t count, hid_t memory_type, void* out) {
  if (count == 0) return true;
  const Handle space(H5Dget_space(column.dataset.get()), H5Sclose);
  const auto start = static_cast<hsize_t>(first), size = static_cast<hsize_t>(count);
  const Handle memory(H5Screate_simple(1, &size, nullptr), H5Sclose);
  return H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &size, nullptr) >= 0 &&
         H5Dread(column.dataset.get(), memory_type, memory.get(), space.get(), H5P_DEFAULT, out) >= 0;
}

struct ColumnWriter::State {
  struct CompressorDeleter {
    void operator()(libdeflate_compressor* unused) const { libdeflate_free_compressor(unused); }
  };
  static constexpr int kLevel = 1;

  Handle dataset;
  std::size_t element_size = 0;
  std::int64_t chunk = 0, length = 0;
  std::vector<std::byte> open_chunk;  // values that do not fill a chunk yet
  std::unique_ptr<libdeflate_compressor, CompressorDeleter> compressor{libdeflate_alloc_compressor(kLevel)};
  std::vector<std::vector<std::byte>> stored;  // chunks made and not yet written
  std::int64_t num_written = 0;                // chunks

  [[nodiscard]] std::size_t chunk_bytes() const { return static_cast<std::size_t>(chunk) * element_size; }

  /// A whole chunk as HDF5's filters would leave it.
  void compress(const std::byte* values) {
    std::vector<std::byte> bytes(libdeflate_zlib_compress_bound(compressor.get(), chunk_bytes()) + 4);
    const std::size_t size =
        libdeflate_zlib_compress(compressor.get(), values, chunk_bytes(), bytes.data(), bytes.size() - 4);
    const std::uint32_t sum = fletcher32(bytes.data(), size);
    std::memcpy(bytes.data() + size, &sum, 4);
    bytes.resize(size + 4);
    bytes.shrink_to_fit();
    stored.push_back(std::move(bytes));
  }
  bool write() {
    const auto lock = lock_library();
    const auto total = static_cast<hsize_t>(length);
    if (!dataset.is_valid() || H5Dset_extent(dataset.get(), &total) < 0) return false;
    for (const auto& bytes : stored) {
      const auto start = static_cast<hsize_t>(num_written++ * chunk);
      if (H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, 0, &start, bytes.size(), bytes.data()) < 0) return false;
    }
    stored.clear();
    return true;
  }
};

ColumnWriter::ColumnWriter(const Handle& file, const char* name, hid_t stored_type, std::int64_t chunk)
    : state_(std::make_unique<State>()) {
  const auto lock = lock_library();
  const hsize_t none = 0, unlimited = H5S_UNLIMITED, chunk_size = static_cast<hsize_t>(chunk);
  const Handle space(H5Screate_simple(1, &none, &unlimited), H5Sclose);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_chunk(properties.get(), 1, &chunk_size);
  H5Pset_deflate(properties.get(), State::kLevel);
  H5Pset_fletcher32(properties.get());
  H5Pset_obj_track_times(properties.get(), false);
  state_->element_size = H5Tget_size(stored_type);
  state_->chunk = chunk;
  state_->dataset = Handle(
      H5Dcreate2(file.get(), name, stored_type, space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT), H5Dclose);
}

ColumnWriter::~ColumnWriter() {
  if (!state_) return;
  const auto lock = lock_library();
  state_.reset();
}
ColumnWriter::ColumnWriter(ColumnWriter&&) noexcept = default;
ColumnWriter& ColumnWriter::operator=(ColumnWriter&&) noexcept = default;

bool ColumnWriter::append(std::int64_t count, const void* values) {
  State& s = *state_;
  const auto* begin = static_cast<const std::byte*>(values);
  const std::byte* end = begin + static_cast<std::size_t>(count) * s.element_size;
  s.length += count;
  while (begin < end) {
    const auto left = static_cast<std::size_t>(end - begin);
    if (s.open_chunk.empty() && left >= s.chunk_bytes()) {
      s.compress(begin);
      begin += s.chunk_bytes();
      continue;
    }
    const std::byte* stop = begin + std::min(left, s.chunk_bytes() - s.open_chunk.size());
    s.open_chunk.insert(s.open_chunk.end(), begin, stop);
    begin = stop;
    if (s.open_chunk.size() < s.chunk_bytes()) continue;
    s.compress(s.open_chunk.data());
    s.open_chunk.clear();
  }
  return s.stored.empty() || s.write();
}

bool ColumnWriter::finish() {
  State& s = *state_;
  if (!s.open_chunk.empty()) {
    s.open_chunk.resize(s.chunk_bytes());  // HDF5 fills up a last chunk with zeros
    s.compress(s.open_chunk.data());
    s.open_chunk.clear();
  }
  const bool ok = s.write();
  const auto lock = lock_library();
  return s.dataset.reset() && ok;
}

}  // namespace ossature::hdf5
