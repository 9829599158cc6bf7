// Damaged files as other programs write them: HDF5's older layout, whose metadata carry no checksums and can crash HDF5
// itself. OSSATURE_MUTANTS sets how many are tried.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>

#include "data/token_file/crc32c.h"
#include "data/token_file/token_file.h"
#include "data/token_file/token_file_format.h"
#include "tests/data/errors.h"
#include "tests/data/made_samples.h"
#include "tests/data/raw_token_file.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

enum class Outcome { kRefused, kRight, kWrong };

class TokenFileHostile : public testing::Test {
 protected:
  /// The samples in HDF5's oldest layout, with or without our checksums; their bytes.
  std::string plain_file(bool has_checksums, hsize_t chunk) {
    const auto path = folder_ / "plain.h5";
    {
      const RawFile file(path, RawFile::Mode::kCreate);
      RawTokenFile parts;
      parts.vocab_size = MadeSamples::kVocabSize;
      parts.write_attributes(file);
      add(file, "/tokens", samples_.tokens, chunk);
      add(file, "/loss_weights", samples_.loss_weights, chunk);
      add(file, "/sample_offsets", samples_.offsets, chunk);
      if (has_checksums) {
        const std::vector<std::uint32_t> sums = {
            crc32c(samples_.tokens.data(), samples_.tokens.size() * 4),
            crc32c(samples_.loss_weights.data(), samples_.loss_weights.size() * 4)};
        file.dataset("/content_crc32c", sums);
        const auto offsets_sum = crc32c(samples_.offsets.data(), samples_.offsets.size() * 8);
        file.attribute<std::int64_t>("structure_crc32c",
                                     {token_file::structure_crc32c(offsets_sum, sums, MadeSamples::kVocabSize, "")});
      }
    }
    std::ifstream in(path, std::ios::binary);
    std::stringstream bytes;
    bytes << in.rdbuf();
    return bytes.str();
  }

  template <class T>
  static void add(const RawFile& file, const char* name, const std::vector<T>& values, hsize_t chunk) {
    if (chunk == 0) return file.dataset(name, values);
    const hsize_t length = values.size(), size = std::min(chunk, length);
    const hid_t space = H5Screate_simple(1, &length, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, 1, &size);
    H5Pset_deflate(properties, 4);
    const hid_t data = H5Dcreate2(file.id(), name, native_type<T>(), space, H5P_DEFAULT, properties, H5P_DEFAULT);
    EXPECT_GE(H5Dwrite(data, native_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Dclose(data), H5Pclose(properties), H5Sclose(space);
  }

  std::string mutate(std::string bytes) {
    const std::size_t at = random_() % bytes.size();
    switch (random_() % 5) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random_() % 8));
        break;
      case 1:
        for (auto n = random_() % 8 + 1; n > 0; --n) bytes[random_() % bytes.size()] = static_cast<char>(random_());
        break;
      case 2: {
        const std::uint64_t value = random_() >> (random_() % 64);
        std::memcpy(&bytes[std::min(at, bytes.size() - 8)], &value, 8);
        break;
      }
      case 3:
        bytes.resize(at);
        break;
      default: {
        const std::size_t size = std::min<std::size_t>(random_() % 256 + 1, bytes.size() - at);
        bytes.replace(at, size, bytes.substr(random_() % (bytes.size() - size), size));
      }
    }
    return bytes;
  }

  Outcome read(const std::string& bytes) {
    const auto path = folder_.write("mutant.h5", bytes);
    try {
      const TokenFileReader file(path);
      file.verify();
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens()));
      std::vector<float> weights(tokens.size());
      file.read_tokens(0, tokens);
      file.read_loss_weights(0, weights);
      const bool is_right = tokens == samples_.tokens && weights == samples_.loss_weights &&
                            std::ranges::equal(file.sample_offsets(), samples_.offsets);
      return is_right ? Outcome::kRight : Outcome::kWrong;
    } catch (const DataError& error) {
      crashes_ += std::string(error.what()).find("crashed") != std::string::npos;
      for (const char* hang : {"came to no end", "stopped answering"}) {
        hangs_ += std::string(error.what()).find(hang) != std::string::npos;
      }
      return Outcome::kRefused;
    }
  }

  /// Tries mutants; gives how many were read wrong.
  int try_mutants(const std::string& good, const char* what) {
    const char* wanted = std::getenv("OSSATURE_MUTANTS");
    const int count = wanted != nullptr ? std::atoi(wanted) : 100;
    std::array<int, 3> outcomes{};
    for (int i = 0; i < count; ++i) ++outcomes[static_cast<std::size_t>(read(mutate(good)))];
    std::cerr << what << ": " << count << " mutants, " << outcomes[0] << " refused (HDF5 crashed in " << crashes_
              << ", hung in " << hangs_ << "), " << outcomes[1] << " read right, " << outcomes[2] << " read wrong\n";
    return outcomes[2];
  }

  const TemporaryDirectory folder_;
  const MadeSamples samples_{6, made_lengths(6, 20, 60)};
  std::mt19937_64 random_{8};
  int crashes_ = 0, hangs_ = 0;
};

TEST_F(TokenFileHostile, PlainFilesDoNoHarm) {
  for (const hsize_t chunk : {0, 50}) {
    const std::string good = plain_file(false, chunk);
    EXPECT_EQ(read(good), Outcome::kRight);
    // Without checksums damage of values cannot be seen.
    try_mutants(good, chunk == 0 ? "contiguous, no checksums" : "chunked, no checksums");
  }
}

TEST_F(TokenFileHostile, PlainFilesWithOurChecksumsAreRefusedOrRight) {
  for (const hsize_t chunk : {0, 50}) {
    const std::string good = plain_file(true, chunk);
    EXPECT_EQ(read(good), Outcome::kRight);
    EXPECT_EQ(try_mutants(good, chunk == 0 ? "contiguous, checksums" : "chunked, checksums"), 0);
  }
}

TEST_F(TokenFileHostile, OurFilesAreRefusedOrRight) {
  samples_.write(folder_ / "ours.h5");
  std::ifstream in(folder_ / "ours.h5", std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  EXPECT_EQ(read(bytes.str()), Outcome::kRight);
  EXPECT_EQ(try_mutants(bytes.str(), "ours"), 0);
}

}  // namespace
}  // namespace ossature
