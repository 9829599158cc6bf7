// The ids of words met lately, for one thread: most of a text is few words again and again. Internal to data/.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

namespace ossature {

/// Fixed in size (1 MB); what is not found is only slower. Keeps words of up to kLongestWord bytes and kMostIds ids.
class WordCache {
 public:
  static constexpr std::size_t kLongestWord = 15, kMostIds = 3;

  /// A word as two numbers, its length in the last byte.
  struct Key {
    std::uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };
  struct Entry {
    Key key;
    std::int32_t count = 0;
    std::array<std::int32_t, kMostIds> ids{};
  };

  /// `word` is not empty and at most kLongestWord long; `readable` bytes may be read from its begin.
  [[nodiscard]] static Key key_of(std::string_view word, std::size_t readable) {
    Key key;
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

  /// The entry of `key`; nullptr if it is not there.
  [[nodiscard]] const Entry* find(const Key& key) const {
    const Entry* pair = entries_.get() + slot_of(key);
    if (pair[0].key == key) return pair;
    return pair[1].key == key ? pair + 1 : nullptr;
  }

  /// A place for `key`, where its ids are to be written; what was there longest is forgotten.
  [[nodiscard]] Entry& insert(const Key& key) {
    Entry* pair = entries_.get() + slot_of(key);
    pair[1] = pair[0];
    pair[0].key = key;
    return pair[0];
  }

  /// Forgets everything unless it is from `owner`.
  void belong_to(std::uint64_t owner) {
    if (owner == owner_) return;
    entries_ = std::make_unique<Entry[]>(kEntries);
    owner_ = owner;
  }

 private:
  static constexpr std::size_t kEntries = std::size_t{1} << 15;

  /// Two neighbours, in one cache line where the allocation is aligned to it.
  [[nodiscard]] static std::size_t slot_of(const Key& key) {
    const std::uint64_t mixed = (key.low * 0x9e3779b97f4a7c15u ^ key.high) * 0xd6e8feb86659fd93u;
    return static_cast<std::size_t>(mixed >> 50 << 1);
  }

  std::unique_ptr<Entry[]> entries_;
  std::uint64_t owner_ = 0;
};

}  // namespace ossature
