#include "data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

namespace ossature {
namespace {

using Order = std::vector<std::int64_t>;

TEST(Sampler, EqualsAComputationInAnotherLanguage) {  // the same two algorithms in Python, with integers of any size
  EXPECT_EQ(shuffled_order(10, 0, 0), (Order{1, 7, 6, 2, 0, 9, 8, 4, 5, 3}));
  EXPECT_EQ(shuffled_order(10, 0, 1), (Order{7, 9, 6, 8, 1, 5, 0, 4, 3, 2}));
  EXPECT_EQ(shuffled_order(10, 42, 0), (Order{6, 1, 8, 5, 2, 7, 4, 3, 9, 0}));
  EXPECT_EQ(shuffled_order(10, UINT64_MAX, 7), (Order{8, 9, 7, 2, 3, 4, 5, 0, 6, 1}));
}

TEST(Sampler, GivesEachPositionOnce) {
  for (const std::int64_t count : {0, 1, 2, 3, 1000}) {
    Order order = shuffled_order(count, 5, 3);
    ASSERT_EQ(order.size(), static_cast<std::size_t>(count));
    std::sort(order.begin(), order.end());
    for (std::int64_t i = 0; i < count; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  }
}

TEST(Sampler, DiffersAmongEpochsAndSeeds) {
  std::set<Order> orders;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    for (std::int64_t epoch = 0; epoch < 20; ++epoch) orders.insert(shuffled_order(50, seed, epoch));
  }
  EXPECT_EQ(orders.size(), 400u);
}

TEST(Sampler, EveryPermutationIsAboutAsLikely) {
  std::array<std::array<int, 5>, 5> at{};  // [position][value]
  constexpr int kDraws = 10000;
  for (int epoch = 0; epoch < kDraws; ++epoch) {
    const Order order = shuffled_order(5, 9, epoch);
    for (std::size_t i = 0; i < 5; ++i) ++at[i][static_cast<std::size_t>(order[i])];
  }
  // 2000 expected in each cell, standard deviation 40; the draws are fixed, so this cannot fail by chance.
  for (const auto& row : at) {
    for (const int count : row) EXPECT_NEAR(count, kDraws / 5, 200);
  }
}

}  // namespace
}  // namespace ossature
