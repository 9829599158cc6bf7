#include "data/batches/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace ossature {
namespace {

using Lengths = std::vector<std::int64_t>;

using Pack = std::vector<std::int64_t>;  // positions in the lengths, longest first

std::vector<std::int64_t> counts_of(const Lengths& lengths, std::int64_t capacity) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(capacity) + 1);
  for (const std::int64_t length : lengths) ++counts.at(static_cast<std::size_t>(length));
  return counts;
}

std::vector<Pack> pack_all(const Lengths& lengths, std::int64_t capacity) {
  Pack order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  const auto length = [&](std::int64_t i) { return lengths[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return length(a) > length(b); });
  const std::vector<std::int64_t> counts = counts_of(lengths, capacity);
  const PackedRows rows = pack_rows(counts);
  EXPECT_EQ(rows.before.size(), lengths.size());
  EXPECT_EQ(count_rows(counts), static_cast<std::int64_t>(rows.last.size()));
  std::vector<Pack> packs;
  for (std::int32_t i : rows.last) {
    packs.emplace_back();
    for (; i >= 0; i = rows.before.at(static_cast<std::size_t>(i))) {
      packs.back().insert(packs.back().begin(), order.at(static_cast<std::size_t>(i)));
    }
  }
  return packs;
}

/// Every sample once, no row over its length.
void expect_valid(const std::vector<Pack>& packs, const Lengths& lengths, std::int64_t capacity) {
  std::vector<int> seen(lengths.size());
  for (const Pack& pack : packs) {
    EXPECT_FALSE(pack.empty());
    std::int64_t used = 0;
    for (const std::int64_t sample : pack) {
      ++seen.at(static_cast<std::size_t>(sample));
      used += lengths[static_cast<std::size_t>(sample)];
    }
    EXPECT_LE(used, capacity);
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<std::ptrdiff_t>(lengths.size()));
}

/// The fewest rows that any assignment needs, by search.
std::size_t fewest_rows(const Lengths& lengths, std::int64_t capacity, std::size_t next, Lengths& rows,
                        std::size_t best) {
  if (rows.size() >= best) return best;
  if (next == lengths.size()) return rows.size();
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (rows[r] + lengths[next] > capacity) continue;
    rows[r] += lengths[next];
    best = fewest_rows(lengths, capacity, next + 1, rows, best);
    rows[r] -= lengths[next];
  }
  rows.push_back(lengths[next]);
  best = fewest_rows(lengths, capacity, next + 1, rows, best);
  rows.pop_back();
  return best;
}

/// Best-fit decreasing, as slow as its definition: the number of rows.
std::size_t by_definition(Lengths lengths, std::int64_t capacity) {
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  Lengths used;
  for (const std::int64_t length : lengths) {
    std::size_t best = used.size();
    for (std::size_t r = 0; r < used.size(); ++r) {
      if (used[r] + length <= capacity && (best == used.size() || used[r] > used[best])) best = r;
    }
    if (best == used.size()) used.push_back(0);
    used[best] += length;
  }
  return used.size();
}

TEST(Packing, KnownCases) {
  EXPECT_TRUE(pack_all({}, 10).empty());
  EXPECT_EQ(pack_all({10}, 10), (std::vector<Pack>{{0}}));
  EXPECT_EQ(pack_all({10, 10, 10}, 10).size(), 3u);
  EXPECT_EQ(pack_all(Lengths(100, 1), 10).size(), 10u);
  // First-fit in the order given would need three rows.
  EXPECT_EQ(pack_all({4, 4, 6, 6}, 10), (std::vector<Pack>{{2, 1}, {3, 0}}));
  // The 3 goes into the fuller row, though the other has room as well.
  EXPECT_EQ(pack_all({5, 7, 3}, 10), (std::vector<Pack>{{1, 2}, {0}}));
}

TEST(Packing, SmallCasesNeedAtMostElevenNinthsOfTheFewestRows) {
  std::mt19937 random(1);
  int optimal = 0;
  constexpr int kCases = 400;
  for (int i = 0; i < kCases; ++i) {
    Lengths lengths(random() % 9 + 1);
    for (auto& length : lengths) length = random() % 20 + 1;
    const auto packs = pack_all(lengths, 20);
    expect_valid(packs, lengths, 20);
    Lengths rows;
    const std::size_t fewest = fewest_rows(lengths, 20, 0, rows, lengths.size() + 1);
    EXPECT_GE(packs.size(), fewest);
    EXPECT_LE(9 * packs.size(), 11 * fewest + 6);  // the bound of best-fit decreasing (Johnson 1974; Dosa 2007)
    optimal += packs.size() == fewest;
  }
  EXPECT_GT(optimal, kCases * 95 / 100);
}

TEST(Packing, LargeCasesEqualTheDefinition) {
  std::mt19937 random(2);
  for (const std::int64_t longest : {5, 60, 300, 1000}) {
    Lengths lengths(2000);
    for (auto& length : lengths) length = random() % static_cast<unsigned>(longest) + 1;
    const auto packs = pack_all(lengths, 1000);
    expect_valid(packs, lengths, 1000);
    EXPECT_EQ(packs.size(), by_definition(lengths, 1000));
    const auto total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
    const auto fewest = static_cast<std::size_t>((total + 999) / 1000);
    EXPECT_LE(packs.size(), longest < 1000 ? fewest : fewest + fewest / 50) << longest;
  }
}

TEST(Packing, LongRows) {  // beyond a word and a group of the set of rooms
  std::mt19937 random(3);
  for (const std::int64_t capacity : {63, 64, 65, 4095, 4096, 4097, 131072}) {
    Lengths lengths(3000);
    for (auto& length : lengths) {
      length = static_cast<std::int64_t>(random() % static_cast<unsigned>(capacity >> random() % 6)) + 1;
    }
    const auto packs = pack_all(lengths, capacity);
    expect_valid(packs, lengths, capacity);
    EXPECT_EQ(packs.size(), by_definition(lengths, capacity)) << capacity;
  }
}

TEST(Packing, FillsRowsOfConversations) {  // lengths as those of chats are spread
  std::mt19937_64 random(4);
  std::lognormal_distribution<double> spread(std::log(600.0) - 0.5, 1.0);  // mean 600
  for (const std::size_t count : {2'000, 100'000}) {
    Lengths lengths(count);
    for (auto& length : lengths) length = std::clamp<std::int64_t>(std::llround(spread(random)), 1, 4096);
    const auto packs = pack_all(lengths, 4096);
    expect_valid(packs, lengths, 4096);
    const auto total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
    EXPECT_GE(static_cast<double>(total), 0.99 * 4096.0 * static_cast<double>(packs.size())) << count;
  }
}

}  // namespace
}  // namespace ossature
