#include "data/batches/packing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

namespace ossature {
namespace {

/// A set of numbers below 64^3, with the least member that is not below a number in three steps.
class SmallSet {
 public:
  explicit SmallSet(std::size_t bound) : words_(bound / 64 + 1), groups_(words_.size() / 64 + 1) {}
  void insert(std::size_t n) {
    words_[n / 64] |= bit(n % 64);
    groups_[n / 4096] |= bit(n / 64 % 64);
  }
  void erase(std::size_t n) {
    words_[n / 64] &= ~bit(n % 64);
    if (words_[n / 64] == 0) groups_[n / 4096] &= ~bit(n / 64 % 64);
  }
  /// `none` if there is none.
  [[nodiscard]] std::size_t at_least(std::size_t n, std::size_t none) const {
    std::size_t word = n / 64;
    if (word >= words_.size()) return none;
    if (const auto rest = words_[word] & ~std::uint64_t{0} << n % 64; rest != 0) return word * 64 + lowest(rest);
    ++word;
    for (std::size_t group = word / 64; group < groups_.size(); ++group) {
      const auto rest = group == word / 64 ? groups_[group] & ~std::uint64_t{0} << word % 64 : groups_[group];
      if (rest == 0) continue;
      const std::size_t found = group * 64 + lowest(rest);
      return found * 64 + lowest(words_[found]);
    }
    return none;
  }

 private:
  static std::uint64_t bit(std::size_t n) { return std::uint64_t{1} << n; }
  static std::size_t lowest(std::uint64_t bits) { return static_cast<std::size_t>(std::countr_zero(bits)); }
  std::vector<std::uint64_t> words_, groups_;
};

}  // namespace

PackedRows pack_rows(std::span<const std::int64_t> counts) {
  const std::size_t capacity = counts.size() - 1;
  PackedRows rows;
  rows.before.resize(static_cast<std::size_t>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})));
  // Rows by the room that they have left: chains through rows.
  std::vector<std::int32_t> open(capacity + 1, -1), next_open;
  SmallSet rooms(capacity);
  std::int32_t sample = 0;
  for (std::size_t length = capacity; length > 0; --length) {
    for (std::int64_t left = counts[length]; left > 0;) {
      std::size_t room = rooms.at_least(length, capacity + 1);
      std::int32_t row = 0;
      if (room > capacity) {
        room = capacity;
        row = static_cast<std::int32_t>(rows.last.size());
        rows.last.push_back(-1);
        next_open.push_back(-1);
      } else {
        row = open[room];
        open[room] = next_open[static_cast<std::size_t>(row)];
        if (open[room] < 0) rooms.erase(room);
      }
      // As long as it has room it remains the fullest that has.
      auto& last = rows.last[static_cast<std::size_t>(row)];
      for (; left > 0 && room >= length; --left, room -= length) {
        rows.before[static_cast<std::size_t>(sample)] = last;
        last = sample++;
      }
      if (room == 0) continue;
      next_open[static_cast<std::size_t>(row)] = open[room];
      open[room] = row;
      rooms.insert(room);
    }
  }
  return rows;
}

std::int64_t count_rows(std::span<const std::int64_t> counts) {
  const std::size_t capacity = counts.size() - 1;
  std::vector<std::int64_t> open(capacity + 1);
  SmallSet rooms(capacity);
  std::int64_t num_rows = 0;
  const auto put = [&](std::size_t room, std::int64_t rows) {
    if (room == 0 || rows == 0) return;
    open[room] += rows;
    rooms.insert(room);
  };
  for (std::size_t length = capacity; length > 0; --length) {
    for (std::int64_t left = counts[length]; left > 0;) {
      const std::size_t found = rooms.at_least(length, capacity + 1);
      const bool is_new = found > capacity;
      const std::size_t room = is_new ? capacity : found;
      const auto fit = static_cast<std::int64_t>(room / length);  // samples of this length in such a row
      const std::int64_t needed = (left + fit - 1) / fit;
      const std::int64_t taken = is_new ? needed : std::min(open[room], needed);
      if (is_new) {
        num_rows += taken;
      } else {
        open[room] -= taken;
        if (open[room] == 0) rooms.erase(room);
      }
      const std::int64_t full = std::min(taken, left / fit), rest = full < taken ? left % fit : 0;
      put(room - static_cast<std::size_t>(fit) * length, full);
      put(room - static_cast<std::size_t>(rest) * length, taken - full);
      left -= full * fit + rest;
    }
  }
  return num_rows;
}

}  // namespace ossature
