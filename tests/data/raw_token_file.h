// Token files through HDF5's own calls, as other programs write and read them: without our writer, filters or
// checksums.
#pragma once

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace ossature {

template <typename T>
hid_t native_type() {
  if constexpr (std::is_same_v<T, float>) return H5T_NATIVE_FLOAT;
  if constexpr (std::is_same_v<T, double>) return H5T_NATIVE_DOUBLE;
  if constexpr (std::is_same_v<T, std::uint16_t>) return H5T_NATIVE_UINT16;
  if constexpr (std::is_same_v<T, std::int32_t>) return H5T_NATIVE_INT32;
  if constexpr (std::is_same_v<T, std::uint32_t>) return H5T_NATIVE_UINT32;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5T_NATIVE_INT64;
  if constexpr (std::is_same_v<T, std::uint64_t>) return H5T_NATIVE_UINT64;
}

/// An HDF5 file open for reading and writing.
class RawFile {
 public:
  enum class Mode { kCreate, kOpen };
  RawFile(const std::filesystem::path& path, Mode mode)
      : id_(mode == Mode::kCreate ? H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)
                                  : H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)) {
    EXPECT_GE(id_, 0) << path;
  }
  ~RawFile() { H5Fclose(id_); }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;
  [[nodiscard]] hid_t id() const { return id_; }

  /// As h5py's file.attrs[name] = "text".
  void text_attribute(const char* name, const std::string& text) const {
    const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, H5T_VARIABLE);
    const hid_t attribute = H5Acreate2(id_, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    const char* pointer = text.c_str();
    EXPECT_GE(H5Awrite(attribute, type, &pointer), 0);
    H5Aclose(attribute), H5Tclose(type), H5Sclose(space);
  }
  template <typename T>
  void attribute(const char* name, const std::vector<T>& values) const {
    const hsize_t size = values.size();
    const hid_t space = size == 1 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &size, nullptr);
    const hid_t attribute = H5Acreate2(id_, name, native_type<T>(), space, H5P_DEFAULT, H5P_DEFAULT);
    EXPECT_GE(H5Awrite(attribute, native_type<T>(), values.data()), 0);
    H5Aclose(attribute), H5Sclose(space);
  }
  /// As h5py's file[name] = array: contiguous.
  template <typename T>
  void dataset(const char* name, const std::vector<T>& values, std::vector<hsize_t> shape = {}) const {
    if (shape.empty()) shape = {values.size()};
    const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
    const hid_t data = H5Dcreate2(id_, name, native_type<T>(), space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    EXPECT_GE(H5Dwrite(data, native_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Dclose(data), H5Sclose(space);
  }
  template <typename T>
  [[nodiscard]] std::vector<T> read(const char* name) const {
    const hid_t data = H5Dopen2(id_, name, H5P_DEFAULT), space = H5Dget_space(data);
    std::vector<T> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
    EXPECT_GE(H5Dread(data, native_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Dclose(data), H5Sclose(space);
    return values;
  }
  /// Replaces one value; HDF5's own checksums follow.
  template <typename T>
  void set(const char* name, hsize_t position, T value) const {
    const hid_t data = H5Dopen2(id_, name, H5P_DEFAULT), space = H5Dget_space(data);
    const hsize_t one = 1;
    const hid_t memory = H5Screate_simple(1, &one, nullptr);
    H5Sselect_elements(space, H5S_SELECT_SET, 1, &position);
    EXPECT_GE(H5Dwrite(data, native_type<T>(), memory, space, H5P_DEFAULT, &value), 0);
    H5Sclose(memory), H5Sclose(space), H5Dclose(data);
  }

 private:
  hid_t id_;
};

/// The parts of a good file of three samples, each of which a test may change or leave out.
struct RawTokenFile {
  std::optional<std::string> format = "ossature-tokens";
  std::optional<std::int64_t> version = 1, vocab_size = 100;
  std::vector<std::int64_t> tokens = {5, 6, 7, 8, 99, 0};
  std::vector<double> loss_weights = {0, 1, 0.5, 0, 1, 2};
  std::vector<std::int64_t> sample_offsets = {0, 3, 3, 6};

  void write_attributes(const RawFile& file) const {
    if (format) file.text_attribute("format", *format);
    if (version) file.attribute<std::int64_t>("version", {*version});
    if (vocab_size) file.attribute<std::int64_t>("vocab_size", {*vocab_size});
  }
  void write(const std::filesystem::path& path) const {
    const RawFile file(path, RawFile::Mode::kCreate);
    write_attributes(file);
    file.dataset("/tokens", tokens);
    file.dataset("/loss_weights", loss_weights);
    file.dataset("/sample_offsets", sample_offsets);
  }
};

}  // namespace ossature
