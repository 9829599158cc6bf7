#include "data/word_table.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ossature {

WordTable::WordTable(std::size_t num_words)
    : table_(std::bit_ceil(std::max<std::size_t>(16, 2 * num_words))), shift_(64 - std::countr_zero(table_.size())) {}

std::uint64_t WordTable::hash_of(std::string_view word) {
  constexpr std::uint64_t kMultiplier = 0x9e3779b97f4a7c15u;
  std::uint64_t hash = word.size();
  std::size_t i = 0;
  for (; i + 8 <= word.size(); i += 8) {
    std::uint64_t bytes;
    std::memcpy(&bytes, word.data() + i, 8);
    hash = std::rotl((hash ^ bytes) * kMultiplier, 29);
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, word.data() + i, word.size() - i);
  hash = (hash ^ rest) * kMultiplier;
  return (hash ^ hash >> 32) * kMultiplier;
}

void WordTable::add(std::string_view word, std::int32_t id) {
  const std::uint64_t hash = hash_of(word);
  std::size_t slot = hash >> shift_;
  for (; table_[slot].id != kNone; slot = (slot + 1) & (table_.size() - 1)) {
    if (std::string_view(table_[slot].bytes, table_[slot].size) == word) return;
  }
  table_[slot] = {word.data(), static_cast<std::uint32_t>(word.size()), static_cast<std::uint32_t>(hash), id};
}

}  // namespace ossature
