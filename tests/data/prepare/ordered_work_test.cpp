#include "data/prepare/ordered_work.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace ossature {
namespace {

using Work = OrderedWork<int, int>;

TEST(OrderedWork, GivesResultsInOrder) {
  for (const int threads : {1, 2, 7}) {
    int next = 0;
    std::vector<int> given;
    Work(
        [&]() -> std::optional<Work::Task> {
          return next < 500 ? std::optional<Work::Task>({next++, 1}) : std::nullopt;
        },
        [](int i) {
          std::this_thread::sleep_for(std::chrono::microseconds(i * 7919 % 300));
          return 2 * i;
        },
        [&](int result) { given.push_back(result); })
        .run(threads, 20);
    ASSERT_EQ(given.size(), 500u);
    for (int i = 0; i < 500; ++i) EXPECT_EQ(given[static_cast<std::size_t>(i)], 2 * i);
  }
}

TEST(OrderedWork, WhatIsUnderWayIsLimited) {
  int next = 0;
  std::atomic<int> under_way{0}, most{0};
  Work(
      [&]() -> std::optional<Work::Task> {
        if (next == 200) return std::nullopt;
        most = std::max(most.load(), ++under_way);
        return Work::Task{next++, 10};
      },
      [](int i) { return i; },
      [&](int) {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        --under_way;
      })
      .run(4, 50);
  EXPECT_LE(most, 6);  // five are 50; one may be given but not yet accounted for
  EXPECT_GE(most, 2);
  // One task that is larger than the limit is done alone.
  next = 199;
  Work(
      [&]() -> std::optional<Work::Task> {
        return next < 200 ? std::optional<Work::Task>({next++, 100}) : std::nullopt;
      },
      [](int i) { return i; }, [](int) {})
      .run(2, 50);
}

/// The message of the failure, and what was given before it.
std::pair<std::string, std::vector<int>> failure_of(int threads, int bad_take, int bad_work, int bad_give) {
  int next = 0;
  std::vector<int> given;
  try {
    Work(
        [&]() -> std::optional<Work::Task> {
          if (next == bad_take) throw std::runtime_error("take");
          return next < 300 ? std::optional<Work::Task>({next++, 1}) : std::nullopt;
        },
        [&](int i) {
          if (i == bad_work) std::this_thread::sleep_for(std::chrono::milliseconds(3));
          if (i == bad_work || i == bad_work + 1) throw std::runtime_error("work " + std::to_string(i));
          return i;
        },
        [&](int i) {
          if (i == bad_give) throw std::runtime_error("give");
          given.push_back(i);
        })
        .run(threads, 100);
  } catch (const std::runtime_error& error) {
    return {error.what(), given};
  }
  return {"", given};
}

TEST(OrderedWork, FailuresComeInOrder) {
  for (const int threads : {1, 4}) {
    for (const auto& [message, given] :
         {failure_of(threads, 40, 50, 60), failure_of(threads, 300, 40, 60), failure_of(threads, 60, 50, 40)}) {
      EXPECT_EQ(given.size(), 40u);
      EXPECT_TRUE(message == "take" || message == "work 40" || message == "give") << message;
    }
    EXPECT_EQ(failure_of(threads, 300, 40, 60).first, "work 40");
    EXPECT_EQ(failure_of(threads, 0, 999, 999).first, "take");
  }
}

}  // namespace
}  // namespace ossature
