// Token files: tokenized samples with the weight of each token in the loss, in HDF5. The format is described in
// data/README.md. Sizes: N tokens, S samples.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "data/data_error.h"

namespace ossature {

/// Reads a token file, whoever wrote it. HDF5 opens it in a child process, which tells where the parts lie; they are
/// read and decoded here, without HDF5. Opening checks all of the structure (attributes, types, sizes, offsets) but no
/// token; tokens and weights are checked as they are read: their values, and the file's own checksums where it has
/// them, for which the whole block of 1 Mi tokens around a place is read the first time (verify() before reading at
/// random spares that). Several threads may read, and do so at the same time.
class TokenFileReader {
 public:
  /// Throws DataError if the file breaks the format or HDF5 crashes on it, std::system_error if it cannot be read.
  explicit TokenFileReader(const std::filesystem::path& path);
  ~TokenFileReader();
  TokenFileReader(const TokenFileReader&) = delete;
  TokenFileReader& operator=(const TokenFileReader&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const;
  [[nodiscard]] std::int64_t num_tokens() const;
  [[nodiscard]] std::int64_t num_samples() const;
  [[nodiscard]] std::int64_t vocab_size() const;
  /// SHA-256 of the tokenizer.json that made the file, in hexadecimal; "" if unknown.
  [[nodiscard]] const std::string& tokenizer_sha256() const;
  /// [S + 1]: sample s has tokens sample_offsets()[s] .. sample_offsets()[s + 1].
  [[nodiscard]] std::span<const std::int64_t> sample_offsets() const;

  /// Tokens first .. first + out.size(). Throws DataError on damage or on an id outside of the vocabulary, naming the
  /// position.
  void read_tokens(std::int64_t first, std::span<std::int32_t> out) const;
  /// Their loss weights. Throws DataError on damage or on a weight that is negative or not finite.
  void read_loss_weights(std::int64_t first, std::span<float> out) const;
  /// Where sample `s` came from ("chats.jsonl:12"); "sample 3", counted from 0, where the file does not say.
  [[nodiscard]] std::string sample_source(std::int64_t s) const;

  /// Reads everything, on several threads, so that damage anywhere shows now. Throws DataError naming the damaged part.
  void verify() const;
  /// A digest of what the file holds (samples, tokens, weights), equal for files of equal contents however they are
  /// stored. Reads everything if the file has no checksums and was not verified.
  [[nodiscard]] std::string fingerprint() const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

/// Writes a token file sample by sample in memory bounded by a block of tokens, under a temporary name until finish().
class TokenFileWriter {
 public:
  /// Throws std::system_error if the file cannot be created there.
  TokenFileWriter(const std::filesystem::path& path, std::int64_t vocab_size, const std::string& tokenizer_sha256);
  /// Without finish() nothing is left behind.
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  /// Appends a sample; both spans have its length. `source` says where it came from, for messages.
  void add(std::span<const std::int32_t> tokens, std::span<const float> loss_weights, std::string_view source = {});
  /// Completes the file and gives it its name, replacing what had it. Throws std::system_error when the disk refuses.
  void finish();

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

/// Writes /logprobs float32 [N], aligned with the tokens of a token file, into a file of its own (temporary name, then
/// renamed).
void write_logprobs(const std::filesystem::path& path, std::span<const float> logprobs);

}  // namespace ossature
