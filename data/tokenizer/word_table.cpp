#include "data/tokenizer/word_table.h"

#include <algorithm>
#include <bit>

namespace ossature {

WordTable::WordTable(std::size_t num_words)
    : table_(std::bit_ceil(std::max<std::size_t>(16, 2 * num_words))), shift_(64 - std::countr_zero(table_.size())) {}

void WordTable::add(std::string_view word, std::int32_t id) {
  const WordKey key = WordKey::of(word);
  if (find(word, key) != kNone) return;
  std::size_t slot = key.mixed() >> shift_;
  while (table_[slot].id != kNone) slot = (slot + 1) & (table_.size() - 1);
  table_[slot] = {key, id, static_cast<std::uint32_t>(word.size()), word.data()};
}

}  // namespace ossature
