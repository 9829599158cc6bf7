#include "data/token_file/fletcher32.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstring>
#include <random>
#include <vector>

#include "tests/data/raw_token_file.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

/// What HDF5 stores behind a chunk of these bytes.
std::uint32_t stored_by_hdf5(const std::filesystem::path& path, const std::vector<unsigned char>& bytes) {
  const RawFile file(path, RawFile::Mode::kCreate);
  const hsize_t size = bytes.size(), start = 0;
  const hid_t space = H5Screate_simple(1, &size, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(properties, 1, &size);
  H5Pset_fletcher32(properties);
  const hid_t data = H5Dcreate2(file.id(), "a", H5T_STD_U8LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  EXPECT_GE(H5Dwrite(data, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), 0);
  H5Fflush(file.id(), H5F_SCOPE_GLOBAL);
  std::vector<unsigned char> chunk(bytes.size() + 4);
  std::uint32_t mask = 0, sum = 0;
  EXPECT_GE(H5Dread_chunk(data, H5P_DEFAULT, &start, &mask, chunk.data()), 0);
  std::memcpy(&sum, chunk.data() + bytes.size(), 4);
  H5Dclose(data), H5Pclose(properties), H5Sclose(space);
  return sum;
}

TEST(Fletcher32, EqualsHdf5) {
  const TemporaryDirectory folder;
  std::mt19937 random(1);
  for (const std::size_t size : {1, 2, 3, 4, 359, 360, 719, 720, 721, 16384, 100001}) {
    for (const int kind : {0, 1, 2}) {
      std::vector<unsigned char> bytes(size);
      for (auto& byte : bytes) byte = kind == 0 ? 0 : kind == 1 ? 0xff : static_cast<unsigned char>(random());
      EXPECT_EQ(fletcher32(bytes.data(), size), stored_by_hdf5(folder / "a.h5", bytes)) << size << " " << kind;
    }
  }
}

TEST(Fletcher32, OfManyWords) {  // folding in parts gives what folding at once would
  const std::vector<unsigned char> bytes((4 << 20) + 1, 0xfe);
  std::uint64_t low = 0, high = 0;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    low = (low + 0xfefe) % 65535;
    high = (high + low) % 65535;
  }
  low = (low + 0xfe00) % 65535;
  high = (high + low) % 65535;
  const std::uint32_t sum = fletcher32(bytes.data(), bytes.size());
  EXPECT_EQ((sum & 0xffff) % 65535, low);
  EXPECT_EQ((sum >> 16) % 65535, high);
}

}  // namespace
}  // namespace ossature
