// Token files that break the format, and files that were damaged after they were written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <sstream>

#include "data/token_file/token_file.h"
#include "tests/data/errors.h"
#include "tests/data/made_samples.h"
#include "tests/data/raw_token_file.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

/// Expects that opening or reading all of `path` fails with a message that names it and contains `part`.
void expect_refused(const std::filesystem::path& path, const std::string& part) {
  const std::string message = data_error_of([&] { TokenFileReader(path).verify(); });
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  EXPECT_EQ(message.rfind(path.string() + ": ", 0), 0u) << message;
}

TEST(TokenFileErrors, RefusesWhatIsNotHdf5) {
  const TemporaryDirectory folder;
  expect_refused(folder / "missing.h5", "no such file");
  expect_refused(folder.write("empty.h5", ""), "not a readable HDF5 file");
  expect_refused(folder.write("text.h5", "{\"messages\": []}\n"), "not a readable HDF5 file");
  expect_refused(folder.write("signature.h5", "\x89HDF\r\n\x1a\n"), "not a readable HDF5 file");
  std::filesystem::create_directory(folder / "folder.h5");
  expect_refused(folder / "folder.h5", "not a readable HDF5 file");
}

TEST(TokenFileErrors, RefusesWrongParts) {
  const TemporaryDirectory folder;
  const auto path = folder / "a.h5";
  RawTokenFile().write(path);
  TokenFileReader(path).verify();  // the parts are right unless changed
  const auto expect = [&](const std::function<void(RawTokenFile&)>& change, const std::string& part) {
    RawTokenFile file;
    change(file);
    file.write(path);
    expect_refused(path, part);
  };
  expect([](auto& f) { f.format.reset(); }, "attribute \"format\" is missing");
  expect([](auto& f) { f.format = "tokens"; }, "\"tokens\", expected \"ossature-tokens\"");
  expect([](auto& f) { f.format = ""; }, "\"\", expected \"ossature-tokens\"");
  expect([](auto& f) { f.version.reset(); }, "attribute \"version\" is missing");
  expect([](auto& f) { f.version = 2; }, "version 2");
  expect([](auto& f) { f.vocab_size.reset(); }, "attribute \"vocab_size\" is missing");
  expect([](auto& f) { f.vocab_size = 0; }, "vocab_size is 0");
  expect([](auto& f) { f.vocab_size = -5; }, "vocab_size is -5");
  expect([](auto& f) { f.vocab_size = std::int64_t{1} << 40; }, "vocab_size is 1099511627776");
  expect([](auto& f) { f.vocab_size = 99; }, "/tokens[4] is 99, expected 0 to 98");
  expect([](auto& f) { f.tokens[2] = -1; }, "/tokens[2] is -1");
  expect([](auto& f) { f.tokens[5] = (std::int64_t{1} << 32) + 7; }, "/tokens[5] is 4294967303");
  expect([](auto& f) { f.tokens.push_back(1); }, "/loss_weights has 6 values for 7 tokens");
  expect([](auto& f) { f.loss_weights[1] = -0.5; }, "/loss_weights[1] is -0.5");
  expect([](auto& f) { f.loss_weights[3] = std::nan(""); }, "/loss_weights[3] is ");
  expect([](auto& f) { f.loss_weights[3] = std::numeric_limits<double>::infinity(); }, "/loss_weights[3] is inf");
  expect([](auto& f) { f.loss_weights[3] = 1e300; }, "/loss_weights[3] is inf");
  expect([](auto& f) { f.sample_offsets = {1, 3, 6}; }, "begins with 1");
  expect([](auto& f) { f.sample_offsets = {0, 3}; }, "ends with 3, expected the number of tokens, 6");
  expect([](auto& f) { f.sample_offsets = {0, 3, 7}; }, "ends with 7");
  expect([](auto& f) { f.sample_offsets = {0}; }, "ends with 0");
  expect([](auto& f) { f.sample_offsets = {0, 4, 3, 6}; }, "decreases after position 1, from 4 to 3");
  expect([](auto& f) { f.sample_offsets = {0, -2, 6}; }, "decreases after position 0");
  expect([](auto& f) { f.sample_offsets = {0, 9, 6}; }, "decreases after position 1, from 9 to 6");
}

TEST(TokenFileErrors, RefusesWrongDatasets) {
  const TemporaryDirectory folder;
  const auto path = folder / "a.h5";
  const RawTokenFile good;
  const std::vector<std::int64_t>&tokens = good.tokens, &offsets = good.sample_offsets;
  const std::vector<double>& weights = good.loss_weights;
  const auto expect = [&](const std::function<void(const RawFile&)>& write, const std::string& part) {
    {
      const RawFile file(path, RawFile::Mode::kCreate);
      good.write_attributes(file);
      write(file);
    }
    expect_refused(path, part);
  };
  const auto rest = [&](const RawFile& file) {
    file.dataset("/loss_weights", weights), file.dataset("/sample_offsets", offsets);
  };
  expect([&](const RawFile& f) { rest(f); }, "dataset /tokens is missing");
  expect([&](const RawFile& f) { f.dataset("/tokens", tokens), f.dataset("/loss_weights", weights); },
         "dataset /sample_offsets is missing");
  expect([&](const RawFile& f) { f.dataset("/tokens", tokens), f.dataset("/sample_offsets", offsets); },
         "dataset /loss_weights is missing");
  expect([&](const RawFile& f) { rest(f), f.dataset("/tokens", weights); }, "dataset /tokens holds no integers");
  expect([&](const RawFile& f) { rest(f), f.dataset("/tokens", tokens, {2, 3}); }, "/tokens has 2 dimensions");
  expect(
      [&](const RawFile& f) {
        f.dataset("/tokens", tokens), f.dataset("/loss_weights", tokens), f.dataset("/sample_offsets", offsets);
      },
      "/loss_weights holds no floating-point numbers");
  expect(
      [&](const RawFile& f) {
        rest(f);
        H5Gclose(H5Gcreate2(f.id(), "/tokens", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      },
      "/tokens is not a readable dataset");
  expect(
      [&](const RawFile& f) {
        f.dataset("/tokens", tokens), f.dataset("/loss_weights", weights);
        f.dataset("/sample_offsets", std::vector<std::int64_t>{});
      },
      "/sample_offsets is empty");
  const auto with = [&](const std::function<void(const RawFile&)>& more) {
    return [&, more](const RawFile& f) { rest(f), f.dataset("/tokens", tokens), more(f); };
  };
  expect(with([](const RawFile& f) {
           f.dataset<std::uint32_t>("/content_crc32c", {1, 2, 3});
         }),
         "/content_crc32c has 3 values, expected 2");
  expect(with([](const RawFile& f) { f.dataset<double>("/content_crc32c", {1, 2}); }), "/content_crc32c holds no int");
  expect(with([](const RawFile& f) { f.dataset<std::uint32_t>("/content_crc32c", {1, 2}); }), "/content_crc32c[0]");
  expect(with([](const RawFile& f) {
           f.text_attribute("source_files", "a.jsonl\n");
           f.dataset<std::uint64_t>("/sample_sources", {1, 2});
         }),
         "/sample_sources has 2 values for 3 samples");
  expect(with([](const RawFile& f) { f.attribute<std::int64_t>("tokenizer_sha256", {1}); }),
         "\"tokenizer_sha256\" is not one string");
}

TEST(TokenFileErrors, RefusesAttributesOfAnotherKind) {
  const TemporaryDirectory folder;
  const auto path = folder / "a.h5";
  const auto expect = [&](const std::function<void(RawTokenFile&)>& leave_out,
                          const std::function<void(const RawFile&)>& instead, const std::string& part) {
    RawTokenFile parts;
    leave_out(parts);
    parts.write(path);
    instead(RawFile(path, RawFile::Mode::kOpen));
    expect_refused(path, part);
  };
  expect([](auto& p) { p.version.reset(); }, [](const RawFile& f) { f.text_attribute("version", "1"); },
         "\"version\" is not one integer");
  expect([](auto& p) { p.version.reset(); }, [](const RawFile& f) { f.attribute<double>("version", {1}); },
         "\"version\" is not one integer");
  expect([](auto& p) { p.vocab_size.reset(); },
         [](const RawFile& f) {
           f.attribute<std::int64_t>("vocab_size", {1, 2});
         },
         "\"vocab_size\" is not one integer");
  expect([](auto& p) { p.format.reset(); }, [](const RawFile& f) { f.attribute<std::int64_t>("format", {1}); },
         "\"format\" is not one string");
}

TEST(TokenFileErrors, RefusesLengthsThatTheFileCannotHold) {
  const TemporaryDirectory folder;
  for (const char* vast : {"/tokens", "/sample_offsets"}) {
    const auto path = folder / "a.h5";
    {
      const RawFile file(path, RawFile::Mode::kCreate);
      const RawTokenFile good;
      good.write_attributes(file);
      const bool is_tokens = std::strcmp(vast, "/tokens") == 0;
      // Chunks that were never written take no room, so a small file may claim any length.
      const auto claim = [&](const char* name, hid_t type) {
        const hsize_t length = hsize_t{1} << 60, chunk = 1024;
        const hid_t space = H5Screate_simple(1, &length, nullptr), properties = H5Pcreate(H5P_DATASET_CREATE);
        H5Pset_chunk(properties, 1, &chunk);
        H5Dclose(H5Dcreate2(file.id(), name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT));
        H5Pclose(properties), H5Sclose(space);
      };
      if (is_tokens) {
        claim("/tokens", H5T_STD_I32LE);
        claim("/loss_weights", H5T_IEEE_F32LE);
        file.dataset<std::int64_t>("/sample_offsets", {0, std::int64_t{1} << 60});
      } else {
        file.dataset("/tokens", good.tokens);
        file.dataset("/loss_weights", good.loss_weights);
        claim("/sample_offsets", H5T_STD_I64LE);
      }
    }
    expect_refused(path, std::string(vast) + " claims 1152921504606846976 values in 0 bytes");
  }
}

/// Where HDF5 has put chunk `i` of a dataset: offset in the file and size.
std::pair<haddr_t, hsize_t> chunk_of(const std::filesystem::path& path, const char* name, hsize_t i) {
  const RawFile file(path, RawFile::Mode::kOpen);
  const hid_t data = H5Dopen2(file.id(), name, H5P_DEFAULT), space = H5Dget_space(data);
  haddr_t address = 0;
  hsize_t size = 0;
  EXPECT_GE(H5Dget_chunk_info(data, space, i, nullptr, nullptr, &address, &size), 0);
  H5Sclose(space), H5Dclose(data);
  return {address, size};
}

TEST(TokenFileErrors, DamageOfAChunkIsNamed) {
  const TemporaryDirectory folder;
  const auto path = folder / "a.h5";
  MadeSamples(4, {100000, 60000, 40000}).write(path);
  const std::string good = bytes_of(path);
  for (const char* name : {"/tokens", "/loss_weights"}) {
    std::string bad = good;
    const auto [address, size] = chunk_of(path, name, 2);
    bad[address + size / 2] = static_cast<char>(bad[address + size / 2] ^ 0x10);
    const auto other = folder.write("bad.h5", bad);
    expect_refused(other, std::string(name) + " is damaged at positions 4096 to 6143 (chunk 2)");
  }
}

TEST(TokenFileErrors, ContentsThatDoNotHaveTheirChecksumAreNamed) {
  const TemporaryDirectory folder;
  const MadeSamples samples(5, {1 << 20, 70000});
  const auto tokens = folder / "tokens.h5", weights = folder / "weights.h5";
  samples.write(tokens);
  samples.write(weights);
  // HDF5's own checksums hold after this.
  RawFile(tokens, RawFile::Mode::kOpen).set<std::int32_t>("/tokens", 1048576 + 66000, samples.tokens.back() ^ 1);
  RawFile(weights, RawFile::Mode::kOpen).set<float>("/loss_weights", 70, 0.25f);
  expect_refused(tokens, "/tokens is damaged at positions 1048576 to 1118575 (chunks 512 to 546)");
  expect_refused(tokens, "/content_crc32c[2]");
  expect_refused(weights, "/loss_weights is damaged at positions 0 to 1048575 (chunks 0 to 511)");
  expect_refused(weights, "/content_crc32c[1]");
  // Reading is enough to see it, and what is whole can be read.
  const TokenFileReader file(tokens);
  std::vector<std::int32_t> part(10);
  file.read_tokens(1048560, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), samples.tokens.begin() + 1048560));
  expect_data_error([&] { file.read_tokens(1048570, part); }, "/content_crc32c[2]");
  expect_data_error([&] { file.read_tokens(1118000, part); }, "/content_crc32c[2]");
}

class TokenFileDamage : public testing::Test {
 protected:
  TokenFileDamage() { samples_.write(folder_ / "good.h5"); }

  /// Whether the file with these bytes is refused; when it is not, it must hold exactly what was written.
  bool is_refused(const std::string& bytes) {
    const auto path = folder_.write("bad.h5", bytes);
    try {
      const TokenFileReader file(path);
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens()));
      std::vector<float> weights(tokens.size());
      file.read_tokens(0, tokens);
      file.read_loss_weights(0, weights);
      EXPECT_EQ(tokens, samples_.tokens);
      EXPECT_EQ(weights, samples_.loss_weights);
      EXPECT_TRUE(std::ranges::equal(file.sample_offsets(), samples_.offsets));
      EXPECT_EQ(file.vocab_size(), MadeSamples::kVocabSize);
      EXPECT_EQ(file.tokenizer_sha256(), std::string(64, 'a'));
      for (std::int64_t s = 0; s < samples_.size(); ++s) {
        const std::string source = file.sample_source(s);  // it may be lost, since it serves messages only
        EXPECT_TRUE(source == MadeSamples::source_of(s) || source == "sample " + std::to_string(s)) << source;
      }
      return false;
    } catch (const DataError& error) {
      EXPECT_EQ(std::string(error.what()).rfind(path.string() + ": ", 0), 0u) << error.what();
      return true;
    }
  }

  const TemporaryDirectory folder_;
  const MadeSamples samples_{6, made_lengths(6, 20, 200)};
  std::mt19937_64 random_{7};
};

TEST_F(TokenFileDamage, TruncatedFilesAreRefused) {
  const std::string good = bytes_of(folder_ / "good.h5");
  EXPECT_FALSE(is_refused(good));
  EXPECT_TRUE(is_refused(good.substr(0, good.size() - 1)));
  for (std::size_t size = 0; size < good.size(); size += good.size() / 200) {
    EXPECT_TRUE(is_refused(good.substr(0, size))) << size;
  }
}

TEST_F(TokenFileDamage, FlippedBytesAreRefusedOrHarmless) {
  const std::string good = bytes_of(folder_ / "good.h5");
  int refused = 0;
  constexpr int kMutants = 400;
  for (int i = 0; i < kMutants; ++i) {
    SCOPED_TRACE(i);
    std::string bad = good;
    const std::size_t at = random_() % bad.size();
    if (i % 4 == 0) {
      bad[at] = static_cast<char>(bad[at] ^ (1 << random_() % 8));
    } else if (i % 4 == 1) {
      for (auto n = random_() % 8 + 1; n > 0; --n) bad[random_() % bad.size()] = static_cast<char>(random_());
    } else if (i % 4 == 2) {
      const std::size_t size = std::min<std::size_t>(random_() % 512 + 1, bad.size() - at);
      bad.replace(at, size, size, random_() % 2 == 0 ? '\0' : '\xff');
    } else {
      const std::uint64_t value = random_() >> (random_() % 64);
      std::memcpy(&bad[std::min(at, bad.size() - 8)], &value, 8);
    }
    refused += is_refused(bad);
  }
  // Nearly all bytes count; the others are room that HDF5 keeps, and the sources.
  EXPECT_GT(refused, kMutants * 3 / 4);
}

TEST_F(TokenFileDamage, PartsThatTradePlacesAreRefusedOrHarmless) {
  const std::string good = bytes_of(folder_ / "good.h5");
  for (int i = 0; i < 100; ++i) {
    SCOPED_TRACE(i);
    std::string bad = good;
    const std::size_t size = random_() % 256 + 1;
    const std::size_t from = random_() % (bad.size() - size), to = random_() % (bad.size() - size);
    bad.replace(to, size, good.substr(from, size));
    is_refused(bad);
  }
}

}  // namespace
}  // namespace ossature
