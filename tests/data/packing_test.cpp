#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace ossature {
namespace {

using Lengths = std::vector<std::int64_t>;

std::vector<Pack> pack_all(const Lengths& lengths, std::int64_t capacity) {
  std::vector<std::int64_t> samples(lengths.size());
  std::iota(samples.begin(), samples.end(), 0);
  return pack_samples(samples, lengths, capacity);
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
  EXPECT_EQ(pack_all({4, 4, 6, 6}, 10), (std::vector<Pack>{{2, 0}, {3, 1}}));
  // The 3 goes into the fuller row, though the other has room as well.
  EXPECT_EQ(pack_all({5, 7, 3}, 10), (std::vector<Pack>{{1, 2}, {0}}));
}

TEST(Packing, TakesOnlyTheSamplesGiven) {
  const Lengths lengths = {9, 1, 9, 2, 9, 3};
  const std::vector<std::int64_t> samples = {5, 1, 3};
  EXPECT_EQ(pack_samples(samples, lengths, 6), (std::vector<Pack>{{5, 3, 1}}));
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

TEST(Packing, NumberOfRowsDoesNotDependOnTheOrder) {
  std::mt19937 random(3);
  Lengths lengths(500);
  for (auto& length : lengths) length = random() % 40 + 1;
  std::vector<std::int64_t> samples(lengths.size());
  std::iota(samples.begin(), samples.end(), 0);
  const std::size_t rows = pack_samples(samples, lengths, 64).size();
  for (int i = 0; i < 20; ++i) {
    std::shuffle(samples.begin(), samples.end(), random);
    const auto packs = pack_samples(samples, lengths, 64);
    expect_valid(packs, lengths, 64);
    EXPECT_EQ(packs.size(), rows);
  }
}

}  // namespace
}  // namespace ossature
