// When memory that is free goes back to the system.
#include "train/loop/freed_memory.h"

#include <gtest/gtest.h>

namespace ossature {
namespace {

TEST(FreedMemory, StaysWithinThePlan) {
  FreedMemory freed(1'000);
  for (std::int64_t step = 1; step < 100; ++step) EXPECT_FALSE(freed.should_go(step, 1'000));
}

TEST(FreedMemory, GoesEachTimeThatStepsHaveGrownBeyondThePlan) {
  FreedMemory freed(1'000);
  for (std::int64_t step = 1; step < 200; ++step)
    EXPECT_EQ(freed.should_go(step, step % 20 == 0 ? 1'001 : 900), step % 20 == 0) << step;
}

TEST(FreedMemory, BoundRisesWhereStepsNeedMore) {
  FreedMemory freed(1'000);
  int went = 0;
  for (std::int64_t step = 1; step < 1'000; ++step) went += freed.should_go(step, 2'000) ? 1 : 0;
  EXPECT_EQ(went, 1);
  EXPECT_FALSE(freed.should_go(1'000, 2'100));
  EXPECT_TRUE(freed.should_go(1'001, 2'101));
}

TEST(FreedMemory, LongStepsBetweenShortOnesCountToo) {
  FreedMemory freed(1'000);
  int went = 0;
  for (std::int64_t step = 1; step < 1'000; ++step) went += freed.should_go(step, step % 3 == 0 ? 2'000 : 800) ? 1 : 0;
  EXPECT_EQ(went, 1);
}

}  // namespace
}  // namespace ossature
