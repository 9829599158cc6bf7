#include "data/batches/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>

namespace ossature {
namespace {

using Order = std::vector<std::int32_t>;

Order shuffled_order(std::int32_t count, std::uint64_t seed, std::int64_t epoch) {
  Order order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  SplitMix64 generator(seed, epoch);
  shuffle(order, generator);
  return order;
}

TEST(Sampler, EqualsAComputationInAnotherLanguage) {  // the same two algorithms in Python, with integers of any size
  EXPECT_EQ(shuffled_order(10, 0, 0), (Order{1, 7, 6, 2, 0, 9, 8, 4, 5, 3}));
  EXPECT_EQ(shuffled_order(10, 0, 1), (Order{7, 9, 6, 8, 1, 5, 0, 4, 3, 2}));
  EXPECT_EQ(shuffled_order(10, 42, 0), (Order{6, 1, 8, 5, 2, 7, 4, 3, 9, 0}));
  EXPECT_EQ(shuffled_order(10, UINT64_MAX, 7), (Order{8, 9, 7, 2, 3, 4, 5, 0, 6, 1}));
}

TEST(Sampler, GivesEachPositionOnce) {
  for (const std::int32_t count : {0, 1, 2, 3, 1000}) {
    Order order = shuffled_order(count, 5, 3);
    ASSERT_EQ(order.size(), static_cast<std::size_t>(count));
    std::sort(order.begin(), order.end());
    for (std::int32_t i = 0; i < count; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
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

TEST(Sampler, DrawsEachSampleItsWeightTimes) {
  for (const std::int64_t count : {1, 2, 7, 100}) {
    for (const double weight : {0.125, 0.5, 0.7, 1.0, 1.5, 2.0, 3.25}) {
      for (const bool is_shuffled : {false, true}) {
        const std::uint64_t seed = 11;
        std::vector<std::int64_t> seen(static_cast<std::size_t>(count));
        constexpr int kEpochs = 40;
        for (int epoch = 0; epoch < kEpochs; ++epoch) {
          const Draw draw(count, weight, epoch, is_shuffled ? &seed : nullptr);
          std::int64_t total = 0;
          for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t times = draw.times(i);
            EXPECT_GE(times, static_cast<std::int64_t>(std::floor(weight)));
            EXPECT_LE(times, static_cast<std::int64_t>(std::ceil(weight)));
            seen[static_cast<std::size_t>(i)] += times;
            total += times;
          }
          EXPECT_NEAR(static_cast<double>(total), weight * static_cast<double>(count), 1.0);
        }
        for (const std::int64_t times : seen) EXPECT_NEAR(static_cast<double>(times), kEpochs * weight, 1.0);
      }
    }
  }
}

TEST(Sampler, TwoEpochsOfHalfSeeAllOnce) {
  const std::uint64_t seed = 3;
  const Draw first(1000, 0.5, 0, &seed), second(1000, 0.5, 1, &seed);
  std::int64_t in_first = 0, neighbours = 0;
  for (std::int64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(first.times(i) + second.times(i), 1);
    in_first += first.times(i);
    neighbours += i > 0 && first.times(i) == first.times(i - 1);
  }
  EXPECT_EQ(in_first, 500);
  EXPECT_NEAR(static_cast<double>(neighbours), 500, 100);  // by chance, not the first half of the file
}

TEST(Sampler, KnowsWhetherEpochsAreAlike) {
  EXPECT_TRUE(Draw::is_even(10, 1.0));
  EXPECT_TRUE(Draw::is_even(7, 3.0));
  EXPECT_FALSE(Draw::is_even(10, 0.5));
  EXPECT_FALSE(Draw::is_even(10, 1.25));
}

}  // namespace
}  // namespace ossature
