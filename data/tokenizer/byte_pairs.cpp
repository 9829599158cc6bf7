#include "data/tokenizer/byte_pairs.h"

#include <algorithm>
#include <array>
#include <bit>
#include <queue>
#include <tuple>

namespace ossature {
namespace {

/// Words up to this many bytes are merged by plain search, which is faster for them than a heap. At most 64.
constexpr std::size_t kShort = 64;

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

BytePairs::BytePairs(std::vector<std::int32_t> byte_ids, const std::vector<Merge>& merges)
    : byte_ids_(std::move(byte_ids)) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(16, 2 * merges.size()));
  table_.resize(size);
  shift_ = 64 - std::countr_zero(size);
  filter_.resize(size / 16);  // four bits a slot
  filter_shift_ = shift_ - 2;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const std::uint64_t pair = key_of(merge.left, merge.right);
    const std::uint64_t hash = hash_of(merge.left, merge.right);
    std::size_t slot = hash >> shift_;
    while (table_[slot].pair != kNone && table_[slot].pair != pair) slot = (slot + 1) & (size - 1);
    table_[slot] = {pair, static_cast<std::int32_t>(rank), merge.result};
    filter_[hash >> filter_shift_ >> 6] |= std::uint64_t{1} << (hash >> filter_shift_ & 63);
  }
}

std::uint64_t BytePairs::hash_of(std::int32_t left, std::int32_t right) {
  const std::uint64_t mixed = key_of(left, right) * 0x9e3779b97f4a7c15u;
  return (mixed ^ mixed >> 32) * 0x9e3779b97f4a7c15u;
}

bool BytePairs::may_merge(std::uint64_t hash) const {
  return (filter_[hash >> filter_shift_ >> 6] >> (hash >> filter_shift_ & 63) & 1) != 0;
}

const BytePairs::Entry* BytePairs::find(std::int32_t left, std::int32_t right) const {
  return find(left, right, hash_of(left, right));
}

const BytePairs::Entry* BytePairs::find(std::int32_t left, std::int32_t right, std::uint64_t hash) const {
  if (!may_merge(hash)) return nullptr;
  const std::uint64_t pair = key_of(left, right);
  std::size_t slot = hash >> shift_;
  while (table_[slot].pair != kNone) {
    if (table_[slot].pair == pair) return &table_[slot];
    slot = (slot + 1) & (table_.size() - 1);
  }
  return nullptr;
}

void BytePairs::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  word.size() <= kShort ? encode_short(word, ids) : encode_long(word, ids);
}

void BytePairs::encode_short(std::string_view word, std::vector<std::int32_t>& ids) const {
  // A part is known by its first byte. order[i]: rank of the merge of part i with the next, then i, so that the least
  // is the merge to make; kNoMerge where there is none.
  constexpr std::uint32_t kNoMerge = UINT32_MAX;
  static_assert(kMostMerges << 6 <= kNoMerge >> 1);
  std::array<std::uint32_t, kShort> order;
  std::array<std::int32_t, kShort> id, result;
  const std::size_t size = word.size();
  std::uint64_t parts = ~std::uint64_t{0} >> (64 - size);  // bit i: a part begins at byte i
  const auto look = [&](std::size_t i, std::size_t next) {
    const Entry* entry = find(id[i], id[next]);
    order[i] =
        entry != nullptr ? static_cast<std::uint32_t>(entry->rank) << 6 | static_cast<std::uint32_t>(i) : kNoMerge;
    result[i] = entry != nullptr ? entry->result : 0;
  };
  for (std::size_t i = 0; i < size; ++i) id[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  for (std::size_t i = 0; i + 1 < size; ++i) look(i, i + 1);
  order[size - 1] = kNoMerge;
  while (true) {
    std::uint32_t least = kNoMerge;
    for (std::size_t i = 0; i < size; ++i) least = std::min(least, order[i]);
    if (least == kNoMerge) break;
    const std::size_t at = least & 63;
    const auto after = [&](std::size_t i) { return parts & ~std::uint64_t{1} << i; };  // parts behind i
    const auto gone = static_cast<std::size_t>(std::countr_zero(after(at)));
    parts &= ~(std::uint64_t{1} << gone);
    id[at] = result[at];
    order[gone] = kNoMerge;
    if (const std::uint64_t behind = after(at); behind != 0) {
      look(at, static_cast<std::size_t>(std::countr_zero(behind)));
    } else {
      order[at] = kNoMerge;
    }
    if (const std::uint64_t before = parts & ((std::uint64_t{1} << at) - 1); before != 0) {
      look(63 - static_cast<std::size_t>(std::countl_zero(before)), at);
    }
  }
  for (std::uint64_t left = parts; left != 0; left &= left - 1) {
    ids.push_back(id[static_cast<std::size_t>(std::countr_zero(left))]);
  }
}

void BytePairs::encode_long(std::string_view word, std::vector<std::int32_t>& ids) const {
  struct Part {
    std::int32_t id;
    std::size_t previous, next;
  };
  constexpr auto kEnd = static_cast<std::size_t>(-1);
  std::vector<Part> parts(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    parts[i] = {byte_ids_[static_cast<unsigned char>(word[i])], i == 0 ? kEnd : i - 1,
                i + 1 == word.size() ? kEnd : i + 1};
  }
  struct Candidate {
    std::int32_t rank;
    std::size_t position;
    std::int32_t left, right, result;
    bool operator>(const Candidate& other) const {
      return std::tie(rank, position) > std::tie(other.rank, other.position);
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](std::size_t i) {
    if (i == kEnd || parts[i].next == kEnd) return;
    const std::int32_t left = parts[i].id, right = parts[parts[i].next].id;
    if (const Entry* entry = find(left, right)) candidates.push({entry->rank, i, left, right, entry->result});
  };
  for (std::size_t i = 0; i < parts.size(); ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Part& part = parts[best.position];
    // What was merged since has another id (or -1: it is part of its left neighbour).
    if (part.id != best.left || part.next == kEnd || parts[part.next].id != best.right) continue;
    const std::size_t gone = part.next;
    part.id = best.result;
    part.next = parts[gone].next;
    if (part.next != kEnd) parts[part.next].previous = best.position;
    parts[gone].id = -1;
    consider(part.previous);
    consider(best.position);
  }
  for (std::size_t i = 0; i != kEnd; i = parts[i].next) ids.push_back(parts[i].id);
}

}  // namespace ossature
