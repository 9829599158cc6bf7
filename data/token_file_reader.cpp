#include <algorithm>
#include <cmath>
#include <vector>

#include "data/crc32c.h"
#include "data/hdf5.h"
#include "data/token_file.h"
#include "data/token_file_format.h"

namespace ossature {

using namespace token_file;  // NOLINT: the names of this file's subject

struct TokenFileReader::Contents {
  std::filesystem::path path;
  hdf5::Handle file;
  hdf5::Column tokens, loss_weights, checksums, sources;
  std::int64_t vocab_size = 0;
  std::string tokenizer_sha256;
  std::vector<std::int64_t> offsets;
  std::vector<std::string> source_files;

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(path.string() + ": " + what +
                    "; make the file with ossature prepare, or as data/README.md describes");
  }
  [[noreturn]] void fail_damaged(const char* dataset, std::int64_t first, std::int64_t count) const {
    throw DataError(path.string() + ": " + dataset + " is damaged at positions " + std::to_string(first) + " to " +
                    std::to_string(first + count - 1) + " (chunk " +
                    std::to_string(first / static_cast<std::int64_t>(hdf5::kChunkElements)) +
                    "): a checksum does not match; prepare the file anew");
  }

  void open() {
    const std::lock_guard lock(hdf5::library_mutex());
    hdf5::silence();
    if (!std::filesystem::exists(path)) fail("no such file");
    file = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose};
    if (!file.is_valid()) {
      fail(
          "not a readable HDF5 file (damaged, still being written, or locked; HDF5_USE_FILE_LOCKING=FALSE lifts "
          "locks)");
    }
    if (const std::string format = hdf5::read_string_attribute(file, kFormatAttribute, path); format != kFormat) {
      fail("attribute \"format\" is \"" + format + "\", expected \"" + kFormat + "\"");
    }
    if (const auto version = hdf5::read_integer_attribute(file, kVersionAttribute, path); version != kVersion) {
      fail("version " + std::to_string(version) + " of the format, this program reads version " +
           std::to_string(kVersion));
    }
    vocab_size = hdf5::read_integer_attribute(file, kVocabSizeAttribute, path);
    if (vocab_size < 1 || vocab_size > (std::int64_t{1} << 31)) fail("vocab_size is " + std::to_string(vocab_size));
    if (hdf5::has_attribute(file, kTokenizerAttribute)) {
      tokenizer_sha256 = hdf5::read_string_attribute(file, kTokenizerAttribute, path);
    }
    tokens = hdf5::open_column(file, kTokens, H5T_INTEGER, path);
    loss_weights = hdf5::open_column(file, kLossWeights, H5T_FLOAT, path);
    if (loss_weights.length != tokens.length) {
      fail("/loss_weights has " + std::to_string(loss_weights.length) + " values for " + std::to_string(tokens.length) +
           " tokens");
    }
    read_offsets();
    if (H5Lexists(file.get(), kChecksums, H5P_DEFAULT) > 0) {
      checksums = hdf5::open_column(file, kChecksums, H5T_INTEGER, path);
      const auto expected = 2 * ((tokens.length + kChecksumBlock - 1) / kChecksumBlock);
      if (checksums.length != expected) {
        fail("/content_crc32c has " + std::to_string(checksums.length) + " values, expected " +
             std::to_string(expected));
      }
    }
    if (H5Lexists(file.get(), kSampleSources, H5P_DEFAULT) > 0 && hdf5::has_attribute(file, kSourceFilesAttribute)) {
      sources = hdf5::open_column(file, kSampleSources, H5T_INTEGER, path);
      const std::string names = hdf5::read_string_attribute(file, kSourceFilesAttribute, path);
      for (std::size_t begin = 0; begin < names.size();) {
        const auto end = std::min(names.find('\n', begin), names.size());
        source_files.push_back(names.substr(begin, end - begin));
        begin = end + 1;
      }
    }
  }

  void read_offsets() {
    const hdf5::Column column = hdf5::open_column(file, kSampleOffsets, H5T_INTEGER, path);
    // Each sample takes 8 bytes here; a length that is beyond the file itself cannot be true.
    const auto limit =
        static_cast<std::int64_t>(std::filesystem::file_size(path)) * 1032 + (1 << 20);  // deflate's best ratio
    if (column.length < 1 || column.length > limit)
      fail("/sample_offsets has " + std::to_string(column.length) + " values, expected at least 1");
    offsets.resize(static_cast<std::size_t>(column.length));
    if (!hdf5::read_column(column, 0, column.length, H5T_NATIVE_INT64, offsets.data())) {
      fail_damaged(kSampleOffsets, 0, column.length);
    }
    if (offsets.front() != 0) fail("/sample_offsets begins with " + std::to_string(offsets.front()) + ", expected 0");
    if (offsets.back() != tokens.length) {
      fail("/sample_offsets ends with " + std::to_string(offsets.back()) + ", expected the number of tokens, " +
           std::to_string(tokens.length));
    }
    const auto drop = std::adjacent_find(offsets.begin(), offsets.end(), std::greater<>());
    if (drop != offsets.end()) {
      fail("/sample_offsets decreases after position " + std::to_string(drop - offsets.begin()) + ", from " +
           std::to_string(*drop) + " to " + std::to_string(*(drop + 1)));
    }
  }
};

TokenFileReader::TokenFileReader(const std::filesystem::path& path) : contents_(std::make_unique<Contents>()) {
  contents_->path = path;
  contents_->open();
}

TokenFileReader::~TokenFileReader() {
  const std::lock_guard lock(hdf5::library_mutex());
  contents_.reset();
}

const std::filesystem::path& TokenFileReader::path() const {
  return contents_->path;
}
std::int64_t TokenFileReader::num_tokens() const {
  return contents_->tokens.length;
}
std::int64_t TokenFileReader::num_samples() const {
  return static_cast<std::int64_t>(contents_->offsets.size()) - 1;
}
std::int64_t TokenFileReader::vocab_size() const {
  return contents_->vocab_size;
}
const std::string& TokenFileReader::tokenizer_sha256() const {
  return contents_->tokenizer_sha256;
}
std::span<const std::int64_t> TokenFileReader::sample_offsets() const {
  return contents_->offsets;
}

void TokenFileReader::read_tokens(std::int64_t first, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  // Read as int64, so that an id beyond 32 bits is seen rather than clipped.
  std::vector<std::int64_t> ids(out.size());
  {
    const std::lock_guard lock(hdf5::library_mutex());
    hdf5::silence();
    if (!hdf5::read_column(contents_->tokens, first, count, H5T_NATIVE_INT64, ids.data())) {
      contents_->fail_damaged(kTokens, first, count);
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= contents_->vocab_size) {
      contents_->fail("/tokens[" + std::to_string(first + static_cast<std::int64_t>(i)) + "] is " +
                      std::to_string(ids[i]) + ", expected 0 to " + std::to_string(contents_->vocab_size - 1));
    }
    out[i] = static_cast<std::int32_t>(ids[i]);
  }
}

void TokenFileReader::read_loss_weights(std::int64_t first, std::span<float> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  {
    const std::lock_guard lock(hdf5::library_mutex());
    hdf5::silence();
    if (!hdf5::read_column(contents_->loss_weights, first, count, H5T_NATIVE_FLOAT, out.data())) {
      contents_->fail_damaged(kLossWeights, first, count);
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!std::isfinite(out[i]) || out[i] < 0.0f) {
      contents_->fail("/loss_weights[" + std::to_string(first + static_cast<std::int64_t>(i)) + "] is " +
                      std::to_string(out[i]) + ", expected a number from 0 up");
    }
  }
}

std::string TokenFileReader::sample_source(std::int64_t s) const {
  std::uint64_t source = 0;
  const std::lock_guard lock(hdf5::library_mutex());
  if (s < contents_->sources.length && hdf5::read_column(contents_->sources, s, 1, H5T_NATIVE_UINT64, &source) &&
      (source >> 32) < contents_->source_files.size()) {
    return contents_->source_files[source >> 32] + ":" + std::to_string(source & 0xffffffffu);
  }
  return "sample " + std::to_string(s);
}

void TokenFileReader::verify() const {
  std::vector<std::uint32_t> expected(static_cast<std::size_t>(contents_->checksums.length));
  {
    const std::lock_guard lock(hdf5::library_mutex());
    if (!expected.empty() &&
        !hdf5::read_column(contents_->checksums, 0, contents_->checksums.length, H5T_NATIVE_UINT32, expected.data())) {
      contents_->fail_damaged(kChecksums, 0, contents_->checksums.length);
    }
  }
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  for (std::int64_t first = 0, block = 0; first < num_tokens(); first += kChecksumBlock, ++block) {
    const auto count = std::min(kChecksumBlock, num_tokens() - first);
    tokens.resize(static_cast<std::size_t>(count));
    weights.resize(static_cast<std::size_t>(count));
    read_tokens(first, tokens);
    read_loss_weights(first, weights);
    if (expected.empty()) continue;
    const auto i = static_cast<std::size_t>(2 * block);
    if (crc32c(tokens.data(), tokens.size() * 4) != expected[i]) contents_->fail_damaged(kTokens, first, count);
    if (crc32c(weights.data(), weights.size() * 4) != expected[i + 1])
      contents_->fail_damaged(kLossWeights, first, count);
  }
}

}  // namespace ossature
