// The vocabulary by its bytes: which id a whole word has. Internal to data/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ossature {

/// A hash table that keeps only views of the tokens, which must outlive it. Immutable once filled.
class WordTable {
 public:
  static constexpr std::int32_t kNone = -1;

  explicit WordTable(std::size_t num_words);
  /// Of equal words the first counts. At most `num_words` times.
  void add(std::string_view word, std::int32_t id);

  /// The id of `word`; kNone if there is none.
  [[nodiscard]] std::int32_t find(std::string_view word) const {
    const std::uint64_t hash = hash_of(word);
    for (std::size_t slot = hash >> shift_;; slot = (slot + 1) & (table_.size() - 1)) {
      const Entry& entry = table_[slot];
      if (entry.id == kNone) return kNone;
      if (entry.tag == static_cast<std::uint32_t>(hash) && entry.size == word.size() &&
          std::string_view(entry.bytes, entry.size) == word) {
        return entry.id;
      }
    }
  }

 private:
  struct Entry {
    const char* bytes = nullptr;
    std::uint32_t size = 0;
    std::uint32_t tag = 0;  // low half of the hash; its high bits choose the slot
    std::int32_t id = kNone;
  };
  [[nodiscard]] static std::uint64_t hash_of(std::string_view word);

  std::vector<Entry> table_;  // open addressing, a power of two long, at most half full
  int shift_;
};

}  // namespace ossature
