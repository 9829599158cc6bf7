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
  hdf5::Column tokens, loss_weights, sources;
  std::int64_t vocab_size = 0;
  std::string tokenizer_sha256;
  std::vector<std::int64_t> offsets;
  std::vector<std::string> source_files;
  std::vector<std::uint32_t> checksums;  // of each block: its tokens, its weights; empty if the file has none
  std::vector<bool> matches;             // whether the contents were seen to have that checksum

  [[noreturn]] void fail(const std::string& what) const { hdf5::fail_format(path, what); }
  [[noreturn]] void fail_damaged(const char* name, const hdf5::Column& column, std::int64_t first, std::int64_t count,
                                 const std::string& how) const {
    const std::int64_t last = first + count - 1;
    std::string chunks;
    if (column.chunk > 0) {
      const auto begin = first / column.chunk, end = last / column.chunk;
      chunks = begin == end ? " (chunk " + std::to_string(begin) + ")"
                            : " (chunks " + std::to_string(begin) + " to " + std::to_string(end) + ")";
    }
    throw DataError(path.string() + ": " + name + " is damaged at positions " + std::to_string(first) + " to " +
                    std::to_string(last) + chunks + ": " + how + "; prepare the file anew");
  }

  /// Reads a part of a column; when HDF5 cannot, tells the chunk.
  void read(const char* name, const hdf5::Column& column, std::int64_t first, std::int64_t count, hid_t type,
            void* out) const {
    if (hdf5::read_column(column, first, count, type, out)) return;
    std::vector<std::int64_t> unused(static_cast<std::size_t>(count));
    const std::int64_t end = first + count;
    for (std::int64_t begin = first; column.chunk > 0 && begin < end;) {
      const auto size = std::min(column.chunk - begin % column.chunk, end - begin);
      if (!hdf5::read_column(column, begin, size, type, unused.data())) {
        fail_damaged(name, column, begin, size, "HDF5 cannot read it");
      }
      begin += size;
    }
    fail_damaged(name, column, first, count, "HDF5 cannot read it");
  }

  /// Compares the blocks around a part of /tokens (kind 0) or /loss_weights (kind 1) with their checksums, each once.
  void check(int kind, std::int64_t first, std::int64_t count) {
    if (checksums.empty() || count == 0) return;
    const char* name = kind == 0 ? kTokens : kLossWeights;
    const hdf5::Column& column = kind == 0 ? tokens : loss_weights;
    for (auto block = first / kChecksumBlock; block <= (first + count - 1) / kChecksumBlock; ++block) {
      const auto i = static_cast<std::size_t>(2 * block + kind);
      if (matches[i]) continue;
      const auto begin = block * kChecksumBlock, size = std::min(kChecksumBlock, tokens.length - begin);
      std::vector<std::uint32_t> values(static_cast<std::size_t>(size));  // 4 bytes each, whatever they mean
      read(name, column, begin, size, kind == 0 ? H5T_NATIVE_INT32 : H5T_NATIVE_FLOAT, values.data());
      if (crc32c(values.data(), values.size() * 4) != checksums[i]) {
        fail_damaged(
            name, column, begin, size,
            "the contents do not have the checksum in " + std::string(kChecksums) + "[" + std::to_string(i) + "]");
      }
      matches[i] = true;
    }
  }

  void open() {
    const auto lock = hdf5::lock_library();
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
    check_stored_size(kTokens, tokens);
    read_offsets();
    read_checksums();
    read_sources();
  }

  void read_checksums() {
    if (H5Lexists(file.get(), kChecksums, H5P_DEFAULT) <= 0) return;
    const hdf5::Column column = hdf5::open_column(file, kChecksums, H5T_INTEGER, path);
    const auto expected = 2 * ((tokens.length + kChecksumBlock - 1) / kChecksumBlock);
    if (column.length != expected) {
      fail(std::string(kChecksums) + " has " + std::to_string(column.length) + " values, expected " +
           std::to_string(expected));
    }
    checksums.resize(static_cast<std::size_t>(expected));
    matches.resize(checksums.size());
    read(kChecksums, column, 0, expected, H5T_NATIVE_UINT32, checksums.data());
  }

  void read_sources() {
    if (H5Lexists(file.get(), kSampleSources, H5P_DEFAULT) <= 0 || !hdf5::has_attribute(file, kSourceFilesAttribute)) {
      return;
    }
    sources = hdf5::open_column(file, kSampleSources, H5T_INTEGER, path);
    if (sources.length + 1 != static_cast<std::int64_t>(offsets.size())) {
      fail(std::string(kSampleSources) + " has " + std::to_string(sources.length) + " values for " +
           std::to_string(offsets.size() - 1) + " samples");
    }
    const std::string names = hdf5::read_string_attribute(file, kSourceFilesAttribute, path);
    for (std::size_t begin = 0; begin < names.size();) {
      const auto end = std::min(names.find('\n', begin), names.size());
      source_files.push_back(names.substr(begin, end - begin));
      begin = end + 1;
    }
  }

  /// A length that the bytes in the file cannot hold is not true, and would have us allocate memory for it.
  void check_stored_size(const char* name, const hdf5::Column& column) const {
    constexpr std::int64_t kBestRatio = 1032;  // of deflate, in bytes
    const auto stored = static_cast<std::int64_t>(H5Dget_storage_size(column.dataset.get()));
    if (column.length < 0 || column.length / kBestRatio > stored) {
      fail(std::string(name) + " claims " + std::to_string(column.length) + " values in " + std::to_string(stored) +
           " bytes");
    }
  }
  void read_offsets() {
    const hdf5::Column column = hdf5::open_column(file, kSampleOffsets, H5T_INTEGER, path);
    if (column.length == 0) fail("/sample_offsets is empty, expected at least one value, 0");
    check_stored_size(kSampleOffsets, column);
    offsets.resize(static_cast<std::size_t>(column.length));
    read(kSampleOffsets, column, 0, column.length, H5T_NATIVE_INT64, offsets.data());
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
  const auto lock = hdf5::lock_library();
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
    const auto lock = hdf5::lock_library();
    contents_->check(0, first, count);
    contents_->read(kTokens, contents_->tokens, first, count, H5T_NATIVE_INT64, ids.data());
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
    const auto lock = hdf5::lock_library();
    contents_->check(1, first, count);
    contents_->read(kLossWeights, contents_->loss_weights, first, count, H5T_NATIVE_FLOAT, out.data());
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
  const auto lock = hdf5::lock_library();
  const auto& files = contents_->source_files;
  if (s < contents_->sources.length && hdf5::read_column(contents_->sources, s, 1, H5T_NATIVE_UINT64, &source) &&
      (source >> 32) < files.size() && !files[source >> 32].empty()) {
    const auto line = source & 0xffffffffu;
    return files[source >> 32] + (line > 0 ? ":" + std::to_string(line) : "");
  }
  return "sample " + std::to_string(s);
}

void TokenFileReader::verify() const {
  std::vector<std::int32_t> tokens;
  std::vector<float> weights;
  for (std::int64_t first = 0; first < num_tokens(); first += kChecksumBlock) {
    const auto count = static_cast<std::size_t>(std::min(kChecksumBlock, num_tokens() - first));
    tokens.resize(count);
    weights.resize(count);
    read_tokens(first, tokens);
    read_loss_weights(first, weights);
  }
}

}  // namespace ossature
