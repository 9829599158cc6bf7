// Names and sizes of the token file format, for its reader and its writer.
#pragma once

#include <cstdint>

namespace ossature::token_file {

inline constexpr const char* kFormat = "ossature-tokens";
inline constexpr std::int64_t kVersion = 1;

inline constexpr const char* kFormatAttribute = "format";
inline constexpr const char* kVersionAttribute = "version";
inline constexpr const char* kVocabSizeAttribute = "vocab_size";
inline constexpr const char* kTokenizerAttribute = "tokenizer_sha256";
inline constexpr const char* kSourceFilesAttribute = "source_files";

inline constexpr const char* kTokens = "/tokens";
inline constexpr const char* kLossWeights = "/loss_weights";
inline constexpr const char* kSampleOffsets = "/sample_offsets";
inline constexpr const char* kSampleSources = "/sample_sources";
inline constexpr const char* kChecksums = "/content_crc32c";

/// Tokens that share a pair of checksums.
inline constexpr std::int64_t kChecksumBlock = 1 << 20;

}  // namespace ossature::token_file
