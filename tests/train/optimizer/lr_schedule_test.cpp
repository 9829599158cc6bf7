#include "train/optimizer/lr_schedule.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace ossature {
namespace {

// Steps 3 to 9 of transformers 5.18's get_cosine_with_min_lr_schedule_with_warmup(num_warmup_steps=3,
// num_training_steps=10, min_lr_rate=0.1) and get_linear_schedule_with_warmup(3, 10), base learning rate 1.
constexpr std::array<double, 7> kCosine = {1.0,
                                           0.9554359905560885,
                                           0.8305704108364301,
                                           0.6501344202803414,
                                           0.44986557971965857,
                                           0.26942958916356996,
                                           0.14456400944391146};
constexpr std::array<double, 7> kLinear = {1.0,
                                           0.8571428571428571,
                                           0.7142857142857143,
                                           0.5714285714285714,
                                           0.42857142857142855,
                                           0.2857142857142857,
                                           0.14285714285714285};

TEST(LrSchedule, DecaysAsTransformersDoes) {
  for (std::size_t i = 0; i < kCosine.size(); ++i) {
    const auto step = static_cast<std::int64_t>(i) + 3;
    EXPECT_NEAR(learning_rate({LrScheduler::kCosine, 2, 3, 0.1}, step, 10), 2 * kCosine[i], 1e-15);
    EXPECT_NEAR(learning_rate({LrScheduler::kLinear, 2, 3, 0}, step, 10), 2 * kLinear[i], 1e-15);
    EXPECT_EQ(learning_rate({LrScheduler::kConstant, 2, 3, 0.1}, step, 10), 2);
  }
}

TEST(LrSchedule, WarmUpLearnsFromTheFirstStep) {
  for (const LrScheduler shape : {LrScheduler::kConstant, LrScheduler::kLinear, LrScheduler::kCosine}) {
    EXPECT_DOUBLE_EQ(learning_rate({shape, 8, 4, 0.5}, 0, 100), 2);
    EXPECT_DOUBLE_EQ(learning_rate({shape, 8, 4, 0.5}, 1, 100), 4);
    EXPECT_DOUBLE_EQ(learning_rate({shape, 8, 4, 0.5}, 3, 100), 8);
    EXPECT_DOUBLE_EQ(learning_rate({shape, 8, 4, 0.5}, 4, 100), 8);
  }
}

TEST(LrSchedule, LinearEndsAtItsSmallest) {
  const LrSchedule schedule{LrScheduler::kLinear, 1, 0, 0.2};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0, 4), 1);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1, 4), 0.8);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 3, 4), 0.4);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 4, 4), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 400, 4), 0.2);
}

TEST(LrSchedule, CosineIsHalfWayInTheMiddle) {
  EXPECT_NEAR(learning_rate({LrScheduler::kCosine, 1, 0, 0}, 50, 100), 0.5, 1e-15);
  EXPECT_NEAR(learning_rate({LrScheduler::kCosine, 1, 0, 0}, 25, 100), (1 + std::sqrt(0.5)) / 2, 1e-15);
}

TEST(LrSchedule, RunShorterThanItsWarmUp) {
  const LrSchedule schedule{LrScheduler::kCosine, 1, 10, 0.1};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 2, 3), 0.3);
  EXPECT_DOUBLE_EQ(learning_rate({LrScheduler::kCosine, 1, 3, 0.1}, 3, 3), 1);
}

}  // namespace
}  // namespace ossature
