// What kind of character a code point is, as far as the splitting of text into words asks. By Unicode 16.0, whatever
// the libraries of the system know. Internal to data/.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace ossature {

enum class CharacterClass : std::uint8_t {
  kOther,     // punctuation, symbols, controls, what is not assigned
  kUpper,     // Lu, Lt
  kLower,     // Ll
  kCaseless,  // Lm, Lo
  kMark,      // M
  kNumber,    // N
  kSpace,     // White_Space without the next
  kNewline,   // line feed, carriage return
};

/// A table by code point.
class UnicodeClasses {
 public:
  /// The one table, made at its first use (0.3 MB).
  [[nodiscard]] static const UnicodeClasses& get();

  /// `code` is at most 0x10ffff.
  [[nodiscard]] CharacterClass operator[](std::uint32_t code) const {
    return blocks_[block_of_[code >> 8]][code & 0xff];
  }

 private:
  using Block = std::array<CharacterClass, 256>;
  UnicodeClasses();

  std::array<std::uint16_t, 0x1100> block_of_{};  // equal blocks are kept once
  std::vector<Block> blocks_;
};

}  // namespace ossature
