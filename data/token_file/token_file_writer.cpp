#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <vector>

#include "data/token_file/crc32c.h"
#include "data/token_file/hdf5.h"
#include "data/token_file/token_file.h"
#include "data/token_file/token_file_format.h"

namespace ossature {

using namespace token_file;  // NOLINT: the names of this file's subject

namespace {

/// HDF5 does not hand errno on reliably; what remains when a write fails is the disk.
[[noreturn]] void fail_writing(const std::filesystem::path& path) {
  throw std::system_error(errno != 0 ? errno : EIO, std::generic_category(), path.string() + ": cannot be written");
}

constexpr const char* kMark = ".partial-";

/// Of processes of this machine; where HDF5 was told to lock nothing this is what is known.
bool is_dead(const std::string& process) {
  return ::kill(static_cast<pid_t>(std::strtol(process.c_str(), nullptr, 10)), 0) != 0 && errno == ESRCH;
}

/// Removes what processes that were killed had of `path`: HDF5 holds a lock on what it writes, so a file that can be
/// locked has no writer.
void remove_abandoned(const std::filesystem::path& path) {
  const std::string prefix = path.filename().string() + kMark;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(path.has_parent_path() ? path.parent_path() : ".", ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || name.find_first_not_of("0123456789", prefix.size()) != std::string::npos) continue;
    if (!is_dead(name.substr(prefix.size()))) continue;
    const int descriptor = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) std::filesystem::remove(entry.path(), ignored);
    ::close(descriptor);
  }
}

/// Where `path` is written until it is complete. What others were writing there and can no longer finish goes.
std::filesystem::path take_temporary_name(const std::filesystem::path& path) {
  remove_abandoned(path);
  return path.string() + kMark + std::to_string(getpid());
}

}  // namespace

struct TokenFileWriter::Contents {
  std::filesystem::path path, temporary;
  hdf5::Handle file;
  std::optional<hdf5::ColumnWriter> tokens, loss_weights, offsets, sources, checksums;
  std::int64_t vocab_size = 0;
  std::string tokenizer_sha256;
  std::uint32_t structure_sum = 0;  // of the offsets so far
  std::vector<std::int32_t> token_buffer;
  std::vector<float> weight_buffer;
  std::vector<std::int64_t> offset_buffer{0};
  std::vector<std::uint64_t> source_buffer;
  std::vector<std::string> source_files;
  std::vector<std::uint32_t> sums;  // of complete blocks: tokens, weights, tokens, ...
  std::uint32_t token_sum = 0, weight_sum = 0;
  std::int64_t num_tokens = 0;
  bool finished = false;

  /// The file and line of "chats.jsonl:12" as one number; line 0 where there is none.
  std::uint64_t encode_source(std::string_view source) {
    std::string name(source);
    std::uint32_t line = 0;
    if (const auto colon = source.rfind(':'); colon != std::string_view::npos) {
      const auto digits = source.substr(colon + 1);
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), line);
      if (error == std::errc() && end == digits.data() + digits.size()) {
        name.resize(colon);
      } else {
        line = 0;
      }
    }
    std::replace(name.begin(), name.end(), '\n', ' ');  // which ends a name in the attribute
    if (source_files.empty() || source_files.back() != name) source_files.push_back(std::move(name));
    return (static_cast<std::uint64_t>(source_files.size() - 1) << 32) | line;
  }

  /// Adds what is buffered to the checksums, whose blocks end after kChecksumBlock tokens, and to the file.
  void flush() {
    std::size_t done = 0;
    const std::int64_t before = num_tokens - static_cast<std::int64_t>(token_buffer.size());
    while (done < token_buffer.size()) {
      const auto position = (before + static_cast<std::int64_t>(done)) % kChecksumBlock;
      const auto count = std::min(token_buffer.size() - done, static_cast<std::size_t>(kChecksumBlock - position));
      token_sum = crc32c(token_buffer.data() + done, count * 4, token_sum);
      weight_sum = crc32c(weight_buffer.data() + done, count * 4, weight_sum);
      done += count;
      if (position + static_cast<std::int64_t>(count) == kChecksumBlock) end_block();
    }
    structure_sum = crc32c(offset_buffer.data(), offset_buffer.size() * sizeof(std::int64_t), structure_sum);
    errno = 0;
    const bool ok = tokens->append(static_cast<std::int64_t>(token_buffer.size()), token_buffer.data()) &&
                    loss_weights->append(static_cast<std::int64_t>(weight_buffer.size()), weight_buffer.data()) &&
                    offsets->append(static_cast<std::int64_t>(offset_buffer.size()), offset_buffer.data()) &&
                    sources->append(static_cast<std::int64_t>(source_buffer.size()), source_buffer.data());
    if (!ok) fail_writing(temporary);
    token_buffer.clear();
    weight_buffer.clear();
    offset_buffer.clear();
    source_buffer.clear();
  }

  void end_block() {
    sums.push_back(token_sum);
    sums.push_back(weight_sum);
    token_sum = weight_sum = 0;
  }
};

TokenFileWriter::TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size,
                                 const std::string& tokenizer_sha256)
    : contents_(std::make_unique<Contents>()) {
  Contents& c = *contents_;
  c.path = path;
  c.temporary = take_temporary_name(path);
  c.vocab_size = vocab_size;
  c.tokenizer_sha256 = tokenizer_sha256;
  bool ok = true;
  {
    const auto lock = hdf5::lock_library();
    errno = 0;
    c.file = hdf5::create_file(c.temporary);
    if (!c.file.is_valid()) fail_writing(path);
    ok = hdf5::write_string_attribute(c.file, kFormatAttribute, kFormat) &&
         hdf5::write_integer_attribute(c.file, kVersionAttribute, kVersion) &&
         hdf5::write_integer_attribute(c.file, kVocabSizeAttribute, vocab_size) &&
         hdf5::write_string_attribute(c.file, kTokenizerAttribute, tokenizer_sha256);
  }
  constexpr std::int64_t kFourBytes = hdf5::kSequentialChunkBytes / 4, kEightBytes = hdf5::kSequentialChunkBytes / 8;
  c.tokens.emplace(c.file, kTokens, H5T_STD_I32LE, hdf5::kRandomAccessChunk);
  c.loss_weights.emplace(c.file, kLossWeights, H5T_IEEE_F32LE, hdf5::kRandomAccessChunk);
  c.offsets.emplace(c.file, kSampleOffsets, H5T_STD_I64LE, kEightBytes);
  c.sources.emplace(c.file, kSampleSources, H5T_STD_U64LE, kEightBytes);
  c.checksums.emplace(c.file, kChecksums, H5T_STD_U32LE, kFourBytes);
  if (!ok) fail_writing(c.temporary);
}

TokenFileWriter::~TokenFileWriter() {
  const auto temporary = contents_->temporary;
  const bool finished = contents_->finished;
  Contents& c = *contents_;
  for (auto* column : {&c.tokens, &c.loss_weights, &c.offsets, &c.sources, &c.checksums}) column->reset();
  {
    const auto lock = hdf5::lock_library();
    contents_.reset();
  }
  std::error_code ignored;
  if (!finished) std::filesystem::remove(temporary, ignored);
}

void TokenFileWriter::add(std::span<const std::int32_t> tokens, std::span<const float> loss_weights,
                          std::string_view source) {
  Contents& c = *contents_;
  if (tokens.size() != loss_weights.size()) throw std::invalid_argument("a sample has one loss weight for each token");
  c.token_buffer.insert(c.token_buffer.end(), tokens.begin(), tokens.end());
  c.weight_buffer.insert(c.weight_buffer.end(), loss_weights.begin(), loss_weights.end());
  c.num_tokens += static_cast<std::int64_t>(tokens.size());
  c.offset_buffer.push_back(c.num_tokens);
  c.source_buffer.push_back(c.encode_source(source));
  constexpr std::size_t kBufferedTokens = 1 << 20;
  if (c.token_buffer.size() >= kBufferedTokens) c.flush();
}

void TokenFileWriter::finish() {
  Contents& c = *contents_;
  c.flush();
  if (c.num_tokens % kChecksumBlock != 0) c.end_block();
  c.structure_sum = structure_crc32c(c.structure_sum, c.sums, c.vocab_size, c.tokenizer_sha256);
  errno = 0;
  std::string names;
  for (const std::string& name : c.source_files) names += name + "\n";
  bool ok = c.checksums->append(static_cast<std::int64_t>(c.sums.size()), c.sums.data());
  for (auto* column : {&c.tokens, &c.loss_weights, &c.offsets, &c.sources, &c.checksums}) {
    ok = (*column)->finish() && ok;
  }
  const auto lock = hdf5::lock_library();
  ok = ok && hdf5::write_integer_attribute(c.file, kStructureAttribute, c.structure_sum) &&
       hdf5::write_string_attribute(c.file, kSourceFilesAttribute, names);
  ok = H5Fflush(c.file.get(), H5F_SCOPE_GLOBAL) >= 0 && ok;
  ok = c.file.reset() && ok;
  if (!ok) fail_writing(c.temporary);
  std::filesystem::rename(c.temporary, c.path);
  c.finished = true;
}

void write_logprobs(const std::filesystem::path& path, std::span<const float> logprobs) {
  const auto temporary = take_temporary_name(path);
  errno = 0;
  hdf5::Handle file;
  {
    const auto lock = hdf5::lock_library();
    file = hdf5::create_file(temporary);
  }
  if (!file.is_valid()) fail_writing(path);
  hdf5::ColumnWriter column(file, "/logprobs", H5T_IEEE_F32LE, hdf5::kSequentialChunkBytes / 4);
  bool ok = column.append(static_cast<std::int64_t>(logprobs.size()), logprobs.data());
  ok = column.finish() && ok;
  const auto lock = hdf5::lock_library();
  ok = file.reset() && ok;
  const int cause = errno;
  std::error_code error, ignored;
  if (ok) std::filesystem::rename(temporary, path, error);
  if (ok && !error) return;
  std::filesystem::remove(temporary, ignored);
  errno = error ? error.value() : cause;
  fail_writing(path);
}

}  // namespace ossature
