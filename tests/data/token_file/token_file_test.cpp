#include "data/token_file/token_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <system_error>

#include "tests/data/errors.h"
#include "tests/data/made_samples.h"
#include "tests/data/raw_token_file.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

const std::filesystem::path kFixtures = std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures";

std::vector<std::int32_t> tokens_of(const TokenFileReader& file) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens()));
  file.read_tokens(0, tokens);
  return tokens;
}

std::vector<float> weights_of(const TokenFileReader& file) {
  std::vector<float> weights(static_cast<std::size_t>(file.num_tokens()));
  file.read_loss_weights(0, weights);
  return weights;
}

void expect_holds(const std::filesystem::path& path, const MadeSamples& samples) {
  const TokenFileReader file(path);
  file.verify();
  EXPECT_EQ(file.num_samples(), samples.size());
  EXPECT_EQ(file.vocab_size(), MadeSamples::kVocabSize);
  EXPECT_EQ(file.tokenizer_sha256(), std::string(64, 'a'));
  EXPECT_EQ(std::vector(file.sample_offsets().begin(), file.sample_offsets().end()), samples.offsets);
  EXPECT_TRUE(tokens_of(file) == samples.tokens);
  EXPECT_TRUE(weights_of(file) == samples.loss_weights);
  for (std::int64_t s = 0; s < samples.size(); ++s) ASSERT_EQ(file.sample_source(s), MadeSamples::source_of(s));
}

TEST(TokenFile, GivesBackWhatWasWritten) {
  const TemporaryDirectory folder;
  const MadeSamples samples(1, {3, 0, 200, 1, 0, 77, 5, 5, 9, 0});
  samples.write(folder / "a.h5");
  expect_holds(folder / "a.h5", samples);
  const TokenFileReader file(folder / "a.h5");
  for (std::int64_t first = 0; first < file.num_tokens(); first += 13) {
    std::vector<std::int32_t> part(static_cast<std::size_t>(std::min<std::int64_t>(40, file.num_tokens() - first)));
    file.read_tokens(first, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), samples.tokens.begin() + first)) << first;
  }
  MadeSamples(1, {}).write(folder / "empty.h5");
  expect_holds(folder / "empty.h5", MadeSamples(1, {}));
  MadeSamples(1, {0, 0}).write(folder / "no-token.h5");
  expect_holds(folder / "no-token.h5", MadeSamples(1, {0, 0}));
}

/// CRC-32C by its definition.
std::uint32_t crc_by_bits(const void* data, std::size_t size) {
  std::uint32_t crc = ~0u;
  for (std::size_t i = 0; i < size; ++i) {
    crc ^= static_cast<const unsigned char*>(data)[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
  }
  return ~crc;
}

TEST(TokenFile, WhatAKilledProcessLeftGoes) {
  const TemporaryDirectory folder;
  const auto of_nobody = folder / "a.h5.partial-2147483646", of_another = folder / "b.h5.partial-2147483646",
             of_us = folder / ("a.h5.partial-" + std::to_string(::getppid()));
  for (const auto& path : {of_nobody, of_another, of_us}) std::ofstream(path) << "x";
  const TokenFileWriter writer(folder / "a.h5", 10, "");
  EXPECT_FALSE(std::filesystem::exists(of_nobody));
  EXPECT_TRUE(std::filesystem::exists(of_us)) << "its process lives";
  EXPECT_TRUE(std::filesystem::exists(of_another));
}

TEST(TokenFile, ChecksumsAreOfBlocksOfOneMebiToken) {
  const TemporaryDirectory folder;
  constexpr std::size_t kBlock = 1 << 20;
  MadeSamples samples(2, {500, 700000, 700000, 0, 800000, 3});  // one sample across a border, one block left open
  samples.write(folder / "a.h5");
  expect_holds(folder / "a.h5", samples);
  const auto sums = RawFile(folder / "a.h5", RawFile::Mode::kOpen).read<std::uint32_t>("/content_crc32c");
  ASSERT_EQ(sums.size(), 6u);
  for (std::size_t block = 0; block < 3; ++block) {
    const std::size_t bytes = 4 * std::min(kBlock, samples.tokens.size() - block * kBlock);
    EXPECT_EQ(sums[2 * block], crc_by_bits(&samples.tokens[block * kBlock], bytes));
    EXPECT_EQ(sums[2 * block + 1], crc_by_bits(&samples.loss_weights[block * kBlock], bytes));
  }
  MadeSamples whole(3, {kBlock, kBlock});  // no block is left open
  whole.write(folder / "whole.h5");
  expect_holds(folder / "whole.h5", whole);
}

TEST(TokenFile, LayoutIsAsDocumented) {
  const TemporaryDirectory folder;
  MadeSamples(1, {3, 4}).write(folder / "a.h5");
  const RawFile file(folder / "a.h5", RawFile::Mode::kOpen);
  struct Expected {
    const char* name;
    hid_t type;
    hsize_t length, chunk;
  };
  for (const auto& [name, type, length, chunk] :
       {Expected{"/tokens", H5T_STD_I32LE, 7, 2048}, Expected{"/loss_weights", H5T_IEEE_F32LE, 7, 2048},
        Expected{"/sample_offsets", H5T_STD_I64LE, 3, 32768}, Expected{"/sample_sources", H5T_STD_U64LE, 2, 32768},
        Expected{"/content_crc32c", H5T_STD_U32LE, 2, 65536}}) {
    const hid_t data = H5Dopen2(file.id(), name, H5P_DEFAULT), stored = H5Dget_type(data), space = H5Dget_space(data);
    EXPECT_GT(H5Tequal(stored, type), 0) << name;
    hsize_t real_length = 0, real_chunk = 0;
    ASSERT_EQ(H5Sget_simple_extent_ndims(space), 1);
    H5Sget_simple_extent_dims(space, &real_length, nullptr);
    EXPECT_EQ(real_length, length) << name;
    const hid_t properties = H5Dget_create_plist(data);
    EXPECT_EQ(H5Pget_chunk(properties, 1, &real_chunk), 1);
    EXPECT_EQ(real_chunk, chunk) << name;
    ASSERT_EQ(H5Pget_nfilters(properties), 2);
    unsigned level = 0, flags = 0;
    std::size_t size = 1;
    EXPECT_EQ(H5Pget_filter2(properties, 0, &flags, &size, &level, 0, nullptr, nullptr), H5Z_FILTER_DEFLATE);
    EXPECT_EQ(level, 1u);
    size = 0;
    EXPECT_EQ(H5Pget_filter2(properties, 1, &flags, &size, nullptr, 0, nullptr, nullptr), H5Z_FILTER_FLETCHER32);
    H5Pclose(properties), H5Sclose(space), H5Tclose(stored), H5Dclose(data);
  }
  // Line 1 of the first file, line 2 of it.
  EXPECT_EQ(file.read<std::uint64_t>("/sample_sources"), (std::vector<std::uint64_t>{1, 2}));
  std::array<char, 15> format{};
  const hid_t attribute = H5Aopen(file.id(), "format", H5P_DEFAULT), type = H5Aget_type(attribute);
  ASSERT_EQ(H5Tget_class(type), H5T_STRING);
  ASSERT_EQ(H5Tget_size(type), format.size());
  H5Aread(attribute, type, format.data());
  EXPECT_EQ(std::string(format.data(), format.size()), "ossature-tokens");
  H5Tclose(type), H5Aclose(attribute);
  // Superblock version 3, which has a checksum.
  std::ifstream in(folder / "a.h5", std::ios::binary);
  in.ignore(8);
  EXPECT_EQ(in.get(), 3);
}

TEST(TokenFile, ReadsWhatH5pyWrites) {  // fixtures/make_h5py_fixture.py says what is in it
  const TokenFileReader file(kFixtures / "h5py.h5");
  EXPECT_EQ(file.vocab_size(), 50);
  EXPECT_EQ(file.tokenizer_sha256(), "");
  EXPECT_EQ(tokens_of(file), (std::vector<std::int32_t>{3, 1, 4, 1, 5, 9, 2, 6, 49, 0}));
  EXPECT_EQ(weights_of(file), (std::vector<float>{0, 1, 1, 0, 0.5, 0.25, 2, 0, 1, 1}));
  EXPECT_EQ(std::vector(file.sample_offsets().begin(), file.sample_offsets().end()),
            (std::vector<std::int64_t>{0, 3, 7, 7, 10}));
  EXPECT_EQ(file.sample_source(3), "sample 3");
  file.verify();
}

TEST(TokenFile, TakesNumbersOfAnyWidth) {
  const TemporaryDirectory folder;
  const RawTokenFile wide;
  wide.write(folder / "wide.h5");  // int64, float64
  {
    const RawFile narrow(folder / "narrow.h5", RawFile::Mode::kCreate);
    wide.write_attributes(narrow);
    narrow.dataset<std::uint16_t>("/tokens", {5, 6, 7, 8, 99, 0});
    narrow.dataset<float>("/loss_weights", {0, 1, 0.5, 0, 1, 2});
    narrow.dataset<std::int32_t>("/sample_offsets", {0, 3, 3, 6});
  }
  for (const char* name : {"wide.h5", "narrow.h5"}) {
    const TokenFileReader file(folder / name);
    EXPECT_EQ(tokens_of(file), (std::vector<std::int32_t>{5, 6, 7, 8, 99, 0}));
    EXPECT_EQ(weights_of(file), (std::vector<float>{0, 1, 0.5, 0, 1, 2}));
  }
}

TEST(TokenFile, KnowsTheSourceOfEachSample) {
  const TemporaryDirectory folder;
  const std::vector<std::pair<std::string, std::string>> sources = {
      {"a.jsonl:1", "a.jsonl:1"},
      {"a.jsonl:20", "a.jsonl:20"},
      {"b/c:d.jsonl:4294967295", "b/c:d.jsonl:4294967295"},
      {"a.jsonl:3", "a.jsonl:3"},
      {"", "sample 4"},
      {":7", "sample 5"},
      {"no line", "no line"},
      {"c:", "c:"},
      {"too far:99999999999999999999999", "too far:99999999999999999999999"},
      {"minus:-1", "minus:-1"},
      {"two\nlines:8", "two lines:8"},
      {"日本.jsonl:9", "日本.jsonl:9"}};
  TokenFileWriter writer(folder / "a.h5", 10, "");
  for (const auto& [given, expected] : sources) writer.add(std::vector<std::int32_t>{1}, std::vector<float>{1}, given);
  writer.finish();
  const TokenFileReader file(folder / "a.h5");
  for (std::size_t s = 0; s < sources.size(); ++s) {
    EXPECT_EQ(file.sample_source(static_cast<std::int64_t>(s)), sources[s].second);
  }
  EXPECT_EQ(file.sample_source(1000), "sample 1000");
}

TEST(TokenFile, ManyLongNamesOfSources) {  // more than fits into an object header, 64 KiB
  const TemporaryDirectory folder;
  const auto name = [](int i) { return std::string(200, 'x') + std::to_string(i) + ".jsonl:5"; };
  TokenFileWriter writer(folder / "a.h5", 10, "");
  for (int i = 0; i < 1000; ++i) writer.add(std::vector<std::int32_t>{1}, std::vector<float>{1}, name(i));
  writer.finish();
  const TokenFileReader file(folder / "a.h5");
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(file.sample_source(i), name(i));
}

TEST(TokenFile, HasItsNameOnlyWhenComplete) {
  const TemporaryDirectory folder;
  const auto path = folder.write("a.h5", "what was there");
  {
    TokenFileWriter writer(path, 10, "");
    writer.add(std::vector<std::int32_t>{1}, std::vector<float>{1});
    EXPECT_FALSE(folder.has_only("a.h5"));
    EXPECT_EQ(std::filesystem::file_size(path), 14u);
  }
  EXPECT_TRUE(folder.has_only("a.h5"));
  EXPECT_EQ(std::filesystem::file_size(path), 14u);  // left alone
  MadeSamples(1, {3, 4}).write(path);
  EXPECT_TRUE(folder.has_only("a.h5"));
  expect_holds(path, MadeSamples(1, {3, 4}));
}

TEST(TokenFile, AnUnwritablePlaceIsASystemError) {
  const TemporaryDirectory folder;
  EXPECT_THROW(TokenFileWriter(folder / "missing/a.h5", 10, ""), std::system_error);
  EXPECT_THROW(write_logprobs(folder / "missing/a.h5", std::vector<float>{1}), std::system_error);
  TokenFileWriter writer(folder / "a.h5", 10, "");
  EXPECT_THROW(writer.add(std::vector<std::int32_t>{1, 2}, std::vector<float>{1}), std::invalid_argument);
}

TEST(TokenFile, LogprobsAreOneColumn) {
  const TemporaryDirectory folder;
  std::vector<float> logprobs(100000);
  for (std::size_t i = 0; i < logprobs.size(); ++i) logprobs[i] = -0.001f * static_cast<float>(i);
  logprobs[0] = std::numeric_limits<float>::quiet_NaN();
  write_logprobs(folder / "out.h5", logprobs);
  EXPECT_TRUE(folder.has_only("out.h5"));
  const auto read = RawFile(folder / "out.h5", RawFile::Mode::kOpen).read<float>("/logprobs");
  ASSERT_EQ(read.size(), logprobs.size());
  EXPECT_TRUE(std::isnan(read[0]));
  EXPECT_TRUE(std::equal(read.begin() + 1, read.end(), logprobs.begin() + 1));
}

}  // namespace
}  // namespace ossature
