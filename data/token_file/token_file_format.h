// Names and sizes of the token file format, for its reader and its writer.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "data/token_file/crc32c.h"

namespace ossature::token_file {

inline constexpr const char* kFormat = "ossature-tokens";
inline constexpr std::int64_t kVersion = 1;

inline constexpr const char* kFormatAttribute = "format";
inline constexpr const char* kVersionAttribute = "version";
inline constexpr const char* kVocabSizeAttribute = "vocab_size";
inline constexpr const char* kTokenizerAttribute = "tokenizer_sha256";
inline constexpr const char* kSourceFilesAttribute = "source_files";
inline constexpr const char* kStructureAttribute = "structure_crc32c";

inline constexpr const char* kTokens = "/tokens";
inline constexpr const char* kLossWeights = "/loss_weights";
inline constexpr const char* kSampleOffsets = "/sample_offsets";
inline constexpr const char* kSampleSources = "/sample_sources";
inline constexpr const char* kChecksums = "/content_crc32c";

/// Tokens that share a pair of checksums.
inline constexpr std::int64_t kChecksumBlock = 1 << 20;

/// The attribute kStructureAttribute, from the CRC-32C of /sample_offsets as int64: of these, then /content_crc32c as
/// uint32, vocab_size as int64 and tokenizer_sha256.
[[nodiscard]] inline std::uint32_t structure_crc32c(std::uint32_t offsets_sum, std::span<const std::uint32_t> sums,
                                                    std::int64_t vocab_size, std::string_view tokenizer_sha256) {
  std::uint32_t sum = crc32c(sums.data(), sums.size_bytes(), offsets_sum);
  sum = crc32c(&vocab_size, sizeof(vocab_size), sum);
  return crc32c(tokenizer_sha256.data(), tokenizer_sha256.size(), sum);
}

}  // namespace ossature::token_file
