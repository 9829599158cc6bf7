#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "data/sha256.h"
#include "data/token_file/crc32c.h"
#include "data/token_file/hdf5.h"
#include "data/token_file/hdf5_process.h"
#include "data/token_file/stored_column.h"
#include "data/token_file/token_file.h"
#include "data/token_file/token_file_format.h"

namespace ossature {

using namespace token_file;  // NOLINT: the names of this file's subject

namespace {

class Descriptor {
 public:
  ~Descriptor() {
    if (value >= 0) close(value);
  }
  int value = -1;
};

}  // namespace

struct TokenFileReader::Contents {
  std::filesystem::path path;
  Descriptor file;
  std::optional<StoredColumn> tokens, loss_weights, sources;
  std::int64_t vocab_size = 0;
  std::string tokenizer_sha256;
  std::vector<std::int64_t> offsets;
  std::vector<std::string> source_files;
  // Of each block its tokens, its weights. Without checksums in the file verify() fills them in.
  std::vector<std::uint32_t> checksums;
  bool has_checksums = false;
  std::vector<std::atomic<bool>> matches;  // whether the contents were seen to have that checksum
  std::mutex verifying;

  [[noreturn]] void fail(const std::string& what) const { hdf5::fail_format(path, what); }

  [[nodiscard]] std::int64_t num_blocks() const { return (tokens->length() + kChecksumBlock - 1) / kChecksumBlock; }

  void open() {
    file.value = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file.value < 0 && errno == ENOENT) fail("no such file");
    if (file.value < 0) throw std::system_error(errno, std::generic_category(), path.string() + ": cannot be read");
    struct stat status {};
    if (fstat(file.value, &status) != 0 || !S_ISREG(status.st_mode)) fail("not a readable HDF5 file");
    // As HDF5 does: who writes the file holds an exclusive lock.
    const char* locking = std::getenv("HDF5_USE_FILE_LOCKING");
    const bool is_locking =
        locking == nullptr || (std::strcmp(locking, "FALSE") != 0 && std::strcmp(locking, "0") != 0);
    if (is_locking && flock(file.value, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      fail("locked by a program that writes it (HDF5_USE_FILE_LOCKING=FALSE lifts locks)");
    }
    const auto process = std::make_shared<hdf5::Process>(path, file.value, static_cast<std::uint64_t>(status.st_size));
    read_attributes(process->layout());
    auto layouts = process->take_columns();
    const auto take = [&](const char* name, bool is_float, std::optional<StoredColumn>& column) {
      for (std::size_t i = 0; i < layouts.size(); ++i) {
        if (layouts[i].name != name) continue;
        if (layouts[i].is_float != is_float) fail(std::string(name) + " holds values of another kind");
        column.emplace(path, file.value, std::move(layouts[i]), process, i);
        return true;
      }
      return false;
    };
    std::optional<StoredColumn> offset_column, checksum_column;
    if (!take(kTokens, false, tokens) || !take(kLossWeights, true, loss_weights) ||
        !take(kSampleOffsets, false, offset_column)) {
      fail("a dataset is missing");
    }
    if (loss_weights->length() != tokens->length()) {
      fail("/loss_weights has " + std::to_string(loss_weights->length()) + " values for " +
           std::to_string(tokens->length()) + " tokens");
    }
    read_offsets(*offset_column);
    has_checksums = take(kChecksums, false, checksum_column);
    if (has_checksums) read_checksums(*checksum_column);
    checksums.resize(static_cast<std::size_t>(2 * num_blocks()));
    matches = std::vector<std::atomic<bool>>(checksums.size());
    check_structure(process->layout());
    if (!source_files.empty() && take(kSampleSources, false, sources) &&
        sources->length() + 1 != offset_column->length()) {
      fail(std::string(kSampleSources) + " has " + std::to_string(sources->length()) + " values for " +
           std::to_string(offsets.size() - 1) + " samples");
    }
  }

  void read_attributes(const hdf5::FileLayout& layout) {
    const auto text = [&](const char* name) {
      const auto found = layout.texts.find(name);
      return found == layout.texts.end() ? std::string() : found->second;
    };
    const auto integer = [&](const char* name) {
      const auto found = layout.integers.find(name);
      return found == layout.integers.end() ? -1 : found->second;
    };
    if (text(kFormatAttribute) != kFormat) {
      fail("attribute \"format\" is \"" + text(kFormatAttribute) + "\", expected \"" + kFormat + "\"");
    }
    if (integer(kVersionAttribute) != kVersion) {
      fail("version " + std::to_string(integer(kVersionAttribute)) + " of the format, this program reads version " +
           std::to_string(kVersion));
    }
    vocab_size = integer(kVocabSizeAttribute);
    if (vocab_size < 1 || vocab_size > (std::int64_t{1} << 31)) fail("vocab_size is " + std::to_string(vocab_size));
    tokenizer_sha256 = text(kTokenizerAttribute);
    const std::string names = text(kSourceFilesAttribute);
    for (std::size_t begin = 0; begin < names.size();) {
      const auto end = std::min(names.find('\n', begin), names.size());
      source_files.push_back(names.substr(begin, end - begin));
      begin = end + 1;
    }
  }

  void read_checksums(const StoredColumn& column) {
    if (column.length() != 2 * num_blocks()) {
      fail(std::string(kChecksums) + " has " + std::to_string(column.length()) + " values, expected " +
           std::to_string(2 * num_blocks()));
    }
    checksums.resize(static_cast<std::size_t>(column.length()));
    column.read(0, std::span(checksums), StoredColumn::Caching::kPass);
  }

  void read_offsets(const StoredColumn& column) {
    if (column.length() == 0) fail("/sample_offsets is empty, expected at least one value, 0");
    offsets.resize(static_cast<std::size_t>(column.length()));
    column.read(0, std::span(offsets), StoredColumn::Caching::kPass);
    if (offsets.front() != 0) fail("/sample_offsets begins with " + std::to_string(offsets.front()) + ", expected 0");
    if (offsets.back() != tokens->length()) {
      fail("/sample_offsets ends with " + std::to_string(offsets.back()) + ", expected the number of tokens, " +
           std::to_string(tokens->length()));
    }
    const auto drop = std::adjacent_find(offsets.begin(), offsets.end(), std::greater<>());
    if (drop != offsets.end()) {
      fail("/sample_offsets decreases after position " + std::to_string(drop - offsets.begin()) + ", from " +
           std::to_string(*drop) + " to " + std::to_string(*(drop + 1)));
    }
  }

  [[nodiscard]] std::uint32_t structure_sum() const {
    return structure_crc32c(crc32c(offsets.data(), offsets.size() * sizeof(std::int64_t)), checksums, vocab_size,
                            tokenizer_sha256);
  }
  void check_structure(const hdf5::FileLayout& layout) const {
    const auto stored = layout.integers.find(kStructureAttribute);
    if (stored == layout.integers.end() || !has_checksums || stored->second == structure_sum()) return;
    throw DataError(path.string() +
                    ": is damaged: its offsets, checksums, vocabulary size or tokenizer do not have the " +
                    "checksum in \"" + kStructureAttribute + "\"; prepare the file anew");
  }

  void check_ids(std::int64_t first, std::span<const std::int32_t> ids) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < vocab_size) continue;
      std::int64_t id = 0;  // beyond 32 bits it was clipped
      tokens->read(first + static_cast<std::int64_t>(i), std::span(&id, 1));
      fail_id(first + static_cast<std::int64_t>(i), id);
    }
  }
  [[noreturn]] void fail_id(std::int64_t position, std::int64_t id) const {
    fail("/tokens[" + std::to_string(position) + "] is " + std::to_string(id) + ", expected 0 to " +
         std::to_string(vocab_size - 1));
  }
  void check_weights(std::int64_t first, std::span<const float> weights) const {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (std::isfinite(weights[i]) && weights[i] >= 0.0f) continue;
      fail("/loss_weights[" + std::to_string(first + static_cast<std::int64_t>(i)) + "] is " +
           std::to_string(weights[i]) + ", expected a number from 0 up");
    }
  }

  /// Compares values of a whole block with its checksum, or keeps that where the file has none.
  template <class T>
  void match(std::int64_t block, std::span<const T> values) {
    constexpr bool kIsWeight = std::is_same_v<T, float>;
    const auto i = static_cast<std::size_t>(2 * block + (kIsWeight ? 1 : 0));
    const std::uint32_t sum = crc32c(values.data(), values.size_bytes());
    if (!has_checksums) {
      checksums[i] = sum;
    } else if (sum != checksums[i]) {
      const StoredColumn& column = kIsWeight ? *loss_weights : *tokens;
      column.fail_damaged(
          block * kChecksumBlock, static_cast<std::int64_t>(values.size()),
          "the contents do not have the checksum in " + std::string(kChecksums) + "[" + std::to_string(i) + "]");
    }
    matches[i] = true;
  }
  template <class T>
  void read_block(const StoredColumn& column, std::int64_t block, std::vector<T>& values,
                  StoredColumn::Caching caching) const {
    const auto first = block * kChecksumBlock;
    values.resize(static_cast<std::size_t>(std::min(kChecksumBlock, column.length() - first)));
    column.read(first, std::span<T>(values), caching);
  }
  /// Checks the blocks around a part, each once.
  template <class T>
  void check(const StoredColumn& column, std::int64_t first, std::int64_t count) {
    if (!has_checksums || count == 0) return;
    std::vector<T> values;
    for (auto block = first / kChecksumBlock; block <= (first + count - 1) / kChecksumBlock; ++block) {
      if (matches[static_cast<std::size_t>(2 * block + (std::is_same_v<T, float> ? 1 : 0))]) continue;
      read_block(column, block, values, StoredColumn::Caching::kKeep);
      match(block, std::span<const T>(values));
    }
  }
};

TokenFileReader::TokenFileReader(const std::filesystem::path& path) : contents_(std::make_unique<Contents>()) {
  contents_->path = path;
  contents_->open();
}

TokenFileReader::~TokenFileReader() = default;

const std::filesystem::path& TokenFileReader::path() const {
  return contents_->path;
}
std::int64_t TokenFileReader::num_tokens() const {
  return contents_->tokens->length();
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
  contents_->check<std::int32_t>(*contents_->tokens, first, static_cast<std::int64_t>(out.size()));
  contents_->tokens->read(first, out);
  contents_->check_ids(first, out);
}

void TokenFileReader::read_loss_weights(std::int64_t first, std::span<float> out) const {
  contents_->check<float>(*contents_->loss_weights, first, static_cast<std::int64_t>(out.size()));
  contents_->loss_weights->read(first, out);
  contents_->check_weights(first, out);
}

std::string TokenFileReader::sample_source(std::int64_t s) const {
  const auto& files = contents_->source_files;
  if (contents_->sources && s < contents_->sources->length()) {
    try {
      std::uint64_t source = 0;
      contents_->sources->read(s, std::span(&source, 1));
      const auto line = source & 0xffffffffu;
      if ((source >> 32) < files.size() && !files[source >> 32].empty()) {
        return files[source >> 32] + (line > 0 ? ":" + std::to_string(line) : "");
      }
    } catch (const DataError&) {  // it serves messages only
    }
  }
  return "sample " + std::to_string(s);
}

void TokenFileReader::verify() const {
  Contents& c = *contents_;
  const std::lock_guard lock(c.verifying);
  const std::int64_t num_blocks = c.num_blocks();
  std::atomic<std::int64_t> next{0};
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(num_blocks));  // the first damage is told
  const auto work = [&] {
    std::vector<std::int32_t> tokens;
    std::vector<float> weights;
    for (std::int64_t block = next++; block < num_blocks; block = next++) {
      try {
        c.read_block(*c.tokens, block, tokens, StoredColumn::Caching::kPass);
        c.match(block, std::span<const std::int32_t>(tokens));
        c.check_ids(block * kChecksumBlock, tokens);
        c.read_block(*c.loss_weights, block, weights, StoredColumn::Caching::kPass);
        c.match(block, std::span<const float>(weights));
        c.check_weights(block * kChecksumBlock, weights);
      } catch (...) {
        failures[static_cast<std::size_t>(block)] = std::current_exception();
        next = num_blocks;
      }
    }
  };
  constexpr std::int64_t kMostThreads = 8;
  const auto processors = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> helpers;
  for (std::int64_t i = 1; i < std::min({kMostThreads, processors, num_blocks}); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

std::string TokenFileReader::fingerprint() const {
  const auto is_known = [](const std::atomic<bool>& matches) { return matches.load(); };
  Contents& c = *contents_;
  if (!c.has_checksums && !std::all_of(c.matches.begin(), c.matches.end(), is_known)) verify();
  std::string text = std::to_string(num_tokens()) + " " + std::to_string(num_samples()) + " ";
  text += std::to_string(crc32c(c.offsets.data(), c.offsets.size() * sizeof(std::int64_t)));
  for (const std::uint32_t sum : c.checksums) text += " " + std::to_string(sum);
  return sha256_hex(text);
}

}  // namespace ossature
