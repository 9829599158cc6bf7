// A word as two numbers: what tables and caches of words compare. Internal to data/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace ossature {

struct WordKey {
  /// Words of up to so many bytes have a key of their own; of longer ones it is a hash.
  static constexpr std::size_t kShortWord = 15;

  std::uint64_t low = 0, high = 0;
  bool operator==(const WordKey&) const = default;

  /// `readable` bytes, the word's or more, may be read from where `word` begins. An empty word has the key of no word.
  [[nodiscard]] static WordKey of(std::string_view word, std::size_t readable) {
    return word.size() <= kShortWord ? of_short(word, readable) : of_long(word);
  }
  [[nodiscard]] static WordKey of(std::string_view word) { return of(word, word.size()); }

  /// Spread over 64 bits; the high ones are the best.
  [[nodiscard]] std::uint64_t mixed() const { return (low * kOdd ^ high) * 0xd6e8feb86659fd93u; }

 private:
  static constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15u;  // 2^64 / the golden ratio

  [[nodiscard]] static WordKey of_short(std::string_view word, std::size_t readable) {
    WordKey key;
    if (readable >= 16) {
      std::memcpy(&key, word.data(), 16);
      const auto bits = 8 * word.size();
      if (bits < 64) {
        key.low &= (std::uint64_t{1} << bits) - 1;
        key.high = 0;
      } else {
        key.high &= (std::uint64_t{1} << (bits - 64)) - 1;
      }
    } else {
      std::memcpy(&key, word.data(), word.size());
    }
    key.high |= static_cast<std::uint64_t>(word.size()) << 56;
    return key;
  }
  [[nodiscard]] static WordKey of_long(std::string_view word) {
    WordKey key;
    std::memcpy(&key, word.data(), 16);
    for (std::size_t i = 16; i < word.size(); i += 8) {
      std::uint64_t bytes = 0;
      std::memcpy(&bytes, word.data() + std::min(i, word.size() - 8), 8);
      key.low = (key.low ^ bytes) * kOdd;
      key.high = (key.high ^ bytes >> 32 ^ key.low) * kOdd;
    }
    key.high |= std::uint64_t{0xff} << 56;  // no length of a short word
    return key;
  }
};

}  // namespace ossature
