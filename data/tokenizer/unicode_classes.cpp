#include "data/tokenizer/unicode_classes.h"

#include <map>

#include "data/tokenizer/unicode_ranges.h"

namespace ossature {

const UnicodeClasses& UnicodeClasses::get() {
  static const UnicodeClasses classes;
  return classes;
}

UnicodeClasses::UnicodeClasses() {
  std::map<Block, std::uint16_t> known;
  std::size_t range = 0;
  for (std::uint32_t first = 0; first < 0x110000; first += 256) {
    Block block;
    for (std::uint32_t i = 0; i < 256; ++i) {
      if (range + 1 < kUnicodeRanges.size() && first + i >= kUnicodeRanges[range + 1] >> 3) ++range;
      block[i] = static_cast<CharacterClass>(kUnicodeRanges[range] & 7);
    }
    const auto [found, is_new] = known.emplace(block, static_cast<std::uint16_t>(blocks_.size()));
    if (is_new) blocks_.push_back(block);
    block_of_[first >> 8] = found->second;
  }
}

}  // namespace ossature
