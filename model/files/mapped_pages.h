// Pages of a mapped file: what is read ahead, and what may leave the resident memory.
#pragma once

#include <cstddef>
#include <span>

namespace ossature {

/// `bytes` of a mapping as whole pages: all that it touches.
[[nodiscard]] std::span<std::byte> touched_pages(std::span<const std::byte> bytes);

/// Asks the system to read `bytes`, which are part of a mapped file, in the background.
void will_need(std::span<const std::byte> bytes);

/// Lets go of the pages that belong to `bytes` alone, which are part of a mapping of a file that nobody writes to: they
/// are read again when they are needed. Never for memory that is no such mapping, whose values would be lost.
void release_pages(std::span<const std::byte> bytes);

}  // namespace ossature
