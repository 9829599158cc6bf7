// Streams of bytes, and gzip and zstd taken off them.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "data/data_error.h"

namespace ossature {

/// Fills the front of the span and returns how many bytes; 0 only at the end. An empty span is never given.
using ByteStream = std::function<std::size_t(std::span<char>)>;

/// The contents of gzip members, one after the other (RFC 1952). The stream throws DataError without a place for what
/// is damaged, cut short or followed by something else.
[[nodiscard]] ByteStream gunzip(ByteStream compressed);

/// The contents of zstd frames, one after the other (RFC 8878), skippable frames passed over. Throws as gunzip does,
/// and for frames that need a window of more than 128 MiB.
[[nodiscard]] ByteStream unzstd(ByteStream compressed);

}  // namespace ossature
