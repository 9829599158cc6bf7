#include "train/ranks/rank_layout.h"

#include <gtest/gtest.h>

#include <set>

namespace ossature {
namespace {

Recipe recipe(std::int64_t micro_batches, std::int64_t stages) {
  Recipe made;
  made.train.gradient_accumulation_steps = micro_batches;
  made.train.pipeline_stages = stages;
  return made;
}

TEST(RankLayout, PipelinesShareEveryMicroBatchOnce) {
  for (const std::int64_t stages : {1, 2, 3}) {
    for (const std::int64_t pipelines : {1, 2, 5}) {
      for (const std::int64_t of_step : {1, 4, 7, 10}) {
        std::multiset<std::int64_t> numbers;
        for (std::int64_t rank = 0; rank < stages * pipelines; ++rank) {
          const RankLayout layout = layout_of(recipe(10, stages), rank, stages * pipelines);
          EXPECT_EQ(layout.pipeline * stages + layout.stage, rank);
          for (std::int64_t i = 0; i < layout.num_own(of_step); ++i) numbers.insert(layout.number_in_step(i));
        }
        for (std::int64_t number = 0; number < of_step; ++number)
          EXPECT_EQ(numbers.count(number), static_cast<std::size_t>(stages));
        EXPECT_EQ(numbers.size(), static_cast<std::size_t>(stages * of_step));
      }
    }
  }
}

TEST(RankLayout, ErrorsSayWhatWasExpected) {
  const auto message = [](const Recipe& wrong, std::int64_t ranks) {
    try {
      (void)layout_of(wrong, 0, ranks);
    } catch (const RecipeError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(recipe(8, 2), 4), "");
  EXPECT_NE(message(recipe(8, 2), 3).find("2 stages, but the launcher started 3 ranks"), std::string::npos);
  EXPECT_NE(message(recipe(8, 2), 1).find("1 rank; expected a multiple"), std::string::npos);
  EXPECT_NE(message(recipe(8, 1), 9).find("8 micro-batches for 9 ranks"), std::string::npos);
  EXPECT_EQ(message(recipe(8, 2), 16), "");
  EXPECT_NE(message(recipe(8, 2), 18).find("8 micro-batches for 9 "), std::string::npos);
}

}  // namespace
}  // namespace ossature
