// Unicode as runs of code points of one class. Internal to data/tokenizer/unicode_classes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ossature {

inline constexpr std::size_t kNumUnicodeRanges = 3194;

/// In order: the first code point of a run << 3 | its CharacterClass. A run ends where the next begins; the last at
/// U+10FFFF.
extern const std::array<std::uint32_t, kNumUnicodeRanges> kUnicodeRanges;

}  // namespace ossature
