// The vocabulary by its bytes: which id a whole word has. Internal to data/.
#pragma once

#include <cstdint>
#include <string_view>

#include "data/tokenizer/large_table.h"
#include "data/tokenizer/word_key.h"

namespace ossature {

/// A hash table that keeps views of long words, which must outlive it. Immutable once filled.
class WordTable {
 public:
  static constexpr std::int32_t kNone = -1;

  explicit WordTable(std::size_t num_words);
  /// Of equal words the first counts. At most `num_words` times.
  void add(std::string_view word, std::int32_t id);

  /// The id of `word`, whose key is `key`; kNone if there is none.
  [[nodiscard]] std::int32_t find(std::string_view word, const WordKey& key) const {
    for (std::size_t slot = key.mixed() >> shift_;; slot = (slot + 1) & (table_.size() - 1)) {
      const Entry& entry = table_[slot];
      if (entry.id == kNone) return kNone;
      if (entry.key == key && (word.size() <= WordKey::kShortWord || entry.word() == word)) return entry.id;
    }
  }

 private:
  struct Entry {
    WordKey key;
    std::int32_t id = kNone;
    std::uint32_t size = 0;
    const char* bytes = nullptr;
    [[nodiscard]] std::string_view word() const { return {bytes, size}; }
  };

  LargeTable<Entry> table_;  // open addressing, a power of two long, at most half full
  int shift_;
};

}  // namespace ossature
