// Token files as other programs store them: every way of storing gives the same values.
#include "data/token_file/stored_column.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <functional>
#include <numeric>
#include <random>
#include <thread>

#include "data/token_file/token_file.h"
#include "tests/data/errors.h"
#include "tests/data/raw_token_file.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

using Change = std::function<void(hid_t)>;

constexpr std::int64_t kLength = 1000;

class StoredColumns : public testing::Test {
 protected:
  StoredColumns() {
    std::mt19937 random(1);
    for (std::int64_t i = 0; i < kLength; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(random() % 100));
      weights_.push_back(0.25f * static_cast<float>(random() % 5));
    }
  }

  /// A file whose tokens and weights have these types and properties.
  std::filesystem::path write(
      hid_t token_type, hid_t weight_type, const Change& change, const Change& of_file = [](hid_t) {}) const {
    const auto path = folder_ / "a.h5";
    const hid_t create = H5Pcreate(H5P_FILE_CREATE);
    of_file(create);
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, create, H5P_DEFAULT);
    H5Pclose(create);
    H5Fclose(file);
    const RawFile raw(path, RawFile::Mode::kOpen);
    RawTokenFile().write_attributes(raw);
    raw.dataset<std::int64_t>("/sample_offsets", {0, 300, kLength});
    const auto add = [&](const char* name, hid_t type, hid_t memory_type, const void* values) {
      const hsize_t length = kLength;
      const hid_t space = H5Screate_simple(1, &length, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
      change(properties);
      const hid_t data = H5Dcreate2(raw.id(), name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
      EXPECT_GE(H5Dwrite(data, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
      H5Dclose(data), H5Pclose(properties), H5Sclose(space);
    };
    add("/tokens", token_type, H5T_NATIVE_INT32, tokens_.data());
    add("/loss_weights", weight_type, H5T_NATIVE_FLOAT, weights_.data());
    return path;
  }

  void expect_reads(const std::filesystem::path& path) const {
    const TokenFileReader file(path);
    file.verify();
    std::vector<std::int32_t> tokens(kLength);
    std::vector<float> weights(kLength);
    file.read_tokens(0, tokens);
    file.read_loss_weights(0, weights);
    EXPECT_EQ(tokens, tokens_);
    EXPECT_EQ(weights, weights_);
    for (const auto& [first, count] : {std::pair{0, 1}, {999, 1}, {63, 2}, {64, 64}, {37, 500}, {500, 0}}) {
      tokens.assign(static_cast<std::size_t>(count), -7);
      file.read_tokens(first, tokens);
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), tokens_.begin() + first)) << first << " " << count;
    }
    const std::string fingerprint = file.fingerprint();
    EXPECT_EQ(fingerprint.size(), 64u);
    if (fingerprint_.empty()) fingerprint_ = fingerprint;
    EXPECT_EQ(fingerprint, fingerprint_);  // of contents, however they are stored
  }

  const TemporaryDirectory folder_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> weights_;
  mutable std::string fingerprint_;
};

TEST_F(StoredColumns, OfAnyType) {
  const Change contiguous = [](hid_t) {};
  const Change chunked = [](hid_t p) {
    const hsize_t chunk = 64;
    H5Pset_chunk(p, 1, &chunk);
  };
  for (const Change& change : {contiguous, chunked}) {
    for (const hid_t type : {H5T_STD_I8LE, H5T_STD_U8BE, H5T_STD_I16LE, H5T_STD_I16BE, H5T_STD_U16LE, H5T_STD_I32LE,
                             H5T_STD_I32BE, H5T_STD_U32LE, H5T_STD_I64LE, H5T_STD_I64BE, H5T_STD_U64LE}) {
      expect_reads(write(type, H5T_IEEE_F32LE, change));
    }
    for (const hid_t type : {H5T_IEEE_F32LE, H5T_IEEE_F32BE, H5T_IEEE_F64LE, H5T_IEEE_F64BE}) {
      expect_reads(write(H5T_STD_I32LE, type, change));
    }
  }
}

TEST_F(StoredColumns, OfAnyFilter) {
  struct Filters {
    const char* name;
    std::vector<Change> steps;
  };
  const Change deflate = [](hid_t p) { H5Pset_deflate(p, 6); }, shuffle = [](hid_t p) { H5Pset_shuffle(p); };
  const Change fletcher = [](hid_t p) { H5Pset_fletcher32(p); }, nbit = [](hid_t p) { H5Pset_nbit(p); };
  for (const auto& [name, steps] :
       {Filters{"none", {}}, Filters{"deflate", {deflate}}, Filters{"fletcher", {fletcher}},
        Filters{"shuffle", {shuffle}}, Filters{"deflate fletcher", {deflate, fletcher}},
        Filters{"shuffle deflate fletcher", {shuffle, deflate, fletcher}},
        Filters{"fletcher deflate", {fletcher, deflate}},
        Filters{"fletcher shuffle deflate fletcher", {fletcher, shuffle, deflate, fletcher}},
        Filters{"deflate deflate", {deflate, deflate}}, Filters{"nbit: HDF5 alone can", {nbit}},
        Filters{"nbit deflate", {nbit, deflate}}}) {
    for (const hsize_t chunk : {hsize_t{1}, hsize_t{64}, hsize_t{999}, hsize_t{1000}, hsize_t{4096}}) {
      SCOPED_TRACE(std::string(name) + ", chunks of " + std::to_string(chunk));
      if (chunk == 4096 && steps.empty()) continue;  // HDF5 wants chunks within a dataset of fixed size
      expect_reads(write(H5T_STD_I32LE, H5T_IEEE_F32LE, [&](hid_t p) {
        const hsize_t size = std::min<hsize_t>(chunk, kLength);
        H5Pset_chunk(p, 1, &size);
        for (const Change& step : steps) step(p);
      }));
    }
  }
}

TEST_F(StoredColumns, OfAnyLayout) {
  expect_reads(write(H5T_STD_I16LE, H5T_IEEE_F32LE, [](hid_t p) { H5Pset_layout(p, H5D_COMPACT); }));
  const Change userblock = [](hid_t p) { H5Pset_userblock(p, 1024); };
  expect_reads(write(
      H5T_STD_I32LE, H5T_IEEE_F32LE, [](hid_t) {}, userblock));
  const Change chunked = [](hid_t p) {
    const hsize_t chunk = 64;
    H5Pset_chunk(p, 1, &chunk);
    H5Pset_deflate(p, 1);
  };
  expect_reads(write(H5T_STD_I32LE, H5T_IEEE_F32LE, chunked, userblock));
}

TEST_F(StoredColumns, RefusesValuesInOtherFiles) {
  const auto elsewhere = folder_.write("elsewhere", std::string(4 * kLength, '\1'));
  const auto path =
      write(H5T_STD_I32LE, H5T_IEEE_F32LE, [&](hid_t p) { H5Pset_external(p, elsewhere.c_str(), 0, 4 * kLength); });
  expect_data_error([&] { TokenFileReader{path}; }, "/tokens keeps its values in other files");

  RawTokenFile().write(folder_ / "whole.h5");
  {
    const RawFile link(folder_ / "link.h5", RawFile::Mode::kCreate);
    RawTokenFile().write_attributes(link);
    H5Lcreate_external((folder_ / "whole.h5").c_str(), "/tokens", link.id(), "/tokens", H5P_DEFAULT, H5P_DEFAULT);
  }
  expect_data_error([&] { TokenFileReader{folder_ / "link.h5"}; }, "/tokens is not a readable dataset");
}

TEST_F(StoredColumns, RefusesAChunkThatWasNeverWritten) {
  const auto path = write(H5T_STD_I32LE, H5T_IEEE_F32LE, [](hid_t) {});
  {
    const RawFile file(path, RawFile::Mode::kOpen);
    H5Ldelete(file.id(), "/tokens", H5P_DEFAULT);
    const hsize_t length = kLength, chunk = 100, start = 0;
    const hid_t space = H5Screate_simple(1, &length, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, 1, &chunk);
    const hid_t data = H5Dcreate2(file.id(), "/tokens", H5T_STD_I32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    const hid_t memory = H5Screate_simple(1, &chunk, nullptr);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &chunk, nullptr);
    H5Dwrite(data, H5T_NATIVE_INT32, memory, space, H5P_DEFAULT, tokens_.data());
    H5Sclose(memory), H5Dclose(data), H5Pclose(properties), H5Sclose(space);
  }
  expect_data_error([&] { TokenFileReader{path}; }, "/tokens is damaged: chunk 1 was never written");
}

TEST_F(StoredColumns, ReadByManyThreadsAtOnce) {
  const auto path = write(H5T_STD_I32LE, H5T_IEEE_F32LE, [](hid_t p) {
    const hsize_t chunk = 16;
    H5Pset_chunk(p, 1, &chunk);
    H5Pset_nbit(p);  // all through the one child
  });
  const TokenFileReader file(path);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::int32_t> part(40);
      for (int i = 0; i < 50; ++i) {
        const auto first = static_cast<std::int64_t>(random() % (kLength - 40));
        file.read_tokens(first, part);
        wrong[t] += !std::equal(part.begin(), part.end(), tokens_.begin() + first);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(wrong.size()));
}

}  // namespace
}  // namespace ossature
