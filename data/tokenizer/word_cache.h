// The ids of words met lately, for one thread: most of a text is few words again and again. Internal to data/.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "data/tokenizer/large_table.h"
#include "data/tokenizer/word_key.h"

namespace ossature {

/// Fixed in size (4 MB); what is not found is only slower. Short words with few ids, which are nearly all, are compared
/// as two numbers; a second table takes others.
class WordCache {
 public:
  /// Appends the ids of `word` to `ids`: those known, or else what `encode_new(word, key, ids)` appends. `readable`
  /// bytes may be read from where `word` begins.
  template <class EncodeNew>
  void encode(std::string_view word, std::size_t readable, std::vector<std::int32_t>& ids,
              const EncodeNew& encode_new) {
    const WordKey key = WordKey::of(word, readable);
    if (word.size() > WordKey::kShortWord) return encode_long(word, key, ids, encode_new);
    Short* const pair = short_.data() + (key.mixed() >> (64 - kShortBits) << 1);
    for (const Short* known : {pair, pair + 1}) {
      if (known->key == key) {
        ids.insert(ids.end(), known->ids.begin(), known->ids.begin() + known->count);
        return;
      }
    }
    const std::size_t before = ids.size();
    encode_long(word, key, ids, encode_new);
    const std::size_t count = ids.size() - before;
    if (count > kShortIds) return;
    pair[1] = pair[0];  // what was there longest is forgotten
    pair[0].key = key;
    pair[0].count = static_cast<std::int32_t>(count);
    std::copy_n(ids.end() - static_cast<std::ptrdiff_t>(count), count, pair[0].ids.begin());
  }

  /// Forgets everything unless it is from `owner`, which is not 0.
  void belong_to(std::uint64_t owner) {
    if (owner == owner_) return;
    short_.assign(std::size_t{2} << kShortBits, {});
    long_.assign(std::size_t{1} << kLongBits, {});
    owner_ = owner;
  }

 private:
  static constexpr std::size_t kShortIds = 3, kLongWord = 38, kLongIds = 6;
  static constexpr int kShortBits = 15, kLongBits = 15;  // of pairs, of entries

  struct Short {
    WordKey key;
    std::int32_t count = 0;
    std::array<std::int32_t, kShortIds> ids{};
  };
  struct Long {
    std::uint8_t size = 0, count = 0;
    std::array<char, kLongWord> bytes{};
    std::array<std::int32_t, kLongIds> ids{};
  };
  static_assert(sizeof(Short) == 32 && sizeof(Long) == 64);  // a pair, or an entry, a cache line

  template <class EncodeNew>
  void encode_long(std::string_view word, const WordKey& key, std::vector<std::int32_t>& ids,
                   const EncodeNew& encode_new) {
    if (word.size() > kLongWord) return encode_new(word, key, ids);
    Long& entry = long_[key.mixed() >> (64 - kLongBits)];
    if (entry.size == word.size() && std::memcmp(entry.bytes.data(), word.data(), word.size()) == 0) {
      ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
      return;
    }
    const std::size_t before = ids.size();
    encode_new(word, key, ids);
    const std::size_t count = ids.size() - before;
    // One id of a short word is quickly found again.
    if (count > kLongIds || (count == 1 && word.size() <= WordKey::kShortWord)) return;
    entry.size = static_cast<std::uint8_t>(word.size());
    entry.count = static_cast<std::uint8_t>(count);
    std::copy(word.begin(), word.end(), entry.bytes.begin());
    std::copy_n(ids.end() - static_cast<std::ptrdiff_t>(count), count, entry.ids.begin());
  }

  LargeTable<Short> short_;
  LargeTable<Long> long_;
  std::uint64_t owner_ = 0;
};

}  // namespace ossature
