// Byte-pair encoding of one word: the merge table and its application.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/large_table.h"

namespace ossature {

/// Two neighbours and what becomes of them. A lower rank merges first.
struct Merge {
  std::int32_t left, right, result;
};

/// Immutable, safe to share between threads.
class BytePairs {
 public:
  /// A rank and a position in a short word fit into 32 bits.
  static constexpr std::uint32_t kMostMerges = 1 << 24;

  /// `byte_ids`: the id of each byte's token, [256]. `merges`, at most kMostMerges, most important first; of equal
  /// pairs the last counts, as in the tokenizers library.
  BytePairs(std::vector<std::int32_t> byte_ids, const std::vector<Merge>& merges);

  /// Appends the ids of `word`: the merge of lowest rank, leftmost among equals, again and again. Time grows as n log
  /// n.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  struct Entry {
    std::uint64_t pair = kNone;
    std::int32_t rank = 0, result = 0;
  };
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  [[nodiscard]] static std::uint64_t hash_of(std::int32_t left, std::int32_t right);
  [[nodiscard]] bool may_merge(std::uint64_t hash) const;
  [[nodiscard]] const Entry* find(std::int32_t left, std::int32_t right) const;
  [[nodiscard]] const Entry* find(std::int32_t left, std::int32_t right, std::uint64_t hash) const;
  void encode_short(std::string_view word, std::vector<std::int32_t>& ids) const;
  void encode_long(std::string_view word, std::vector<std::int32_t>& ids) const;

  std::vector<std::int32_t> byte_ids_;
  LargeTable<Entry> table_;  // open addressing, a power of two long
  int shift_ = 0;
  // A bit for each hash that some pair has: most pairs do not merge, and a small table that says so is in the cache.
  LargeTable<std::uint64_t> filter_;
  int filter_shift_ = 0;
};

}  // namespace ossature
