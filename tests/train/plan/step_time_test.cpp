#include "train/plan/step_time.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ossature {
namespace {

constexpr Network kGigabit{1e9 / 8, 1e-3};

/// 8 micro-batches of 2 s, of which 1 goes back, through 10 layers.
StepWork work(double gradient_bytes) {
  return {.micro_batch_seconds = 2.0,
          .micro_batches = 8,
          .backward_share = 0.5,
          .layers = 10,
          .gradient_bytes = gradient_bytes,
          .boundary_bytes = 12.5e6};
}

double stragglers(double seconds, double ranks) {
  return kStepDeviation * seconds * std::sqrt(2.0 * std::log(ranks));
}

TEST(StepTime, OneRankOnlyComputes) {
  const StepTime time = step_time(work(1e9), 1, 1, kGigabit);
  EXPECT_EQ(time.computing, 16.0);
  EXPECT_EQ(time.total(), 16.0);
}

TEST(StepTime, SumsHideBehindTheLastMicroBatchButForTheLowestLayer) {
  // 25 MB over 125 MB/s are 0.2 s, a tenth of them of the lowest layer; the layers above take 0.9 s on the way back.
  const StepTime time = step_time(work(25e6), 2, 1, kGigabit);
  EXPECT_DOUBLE_EQ(time.computing, 8.0);
  EXPECT_DOUBLE_EQ(time.network, 0.02 + 10 * 1e-3);
  EXPECT_DOUBLE_EQ(time.stragglers, stragglers(8.0, 2.0));
}

TEST(StepTime, WhatDoesNotHideIsWaitedFor) {
  const StepTime time = step_time(work(250e6), 2, 1, kGigabit);
  EXPECT_DOUBLE_EQ(time.network, 2.0 - 0.9 + 10 * 1e-3);
}

TEST(StepTime, BytesOfALinkByRanks) {
  const auto network = [](std::int64_t ranks) {
    StepWork all = work(125e6);
    all.backward_share = 0.0;
    return step_time(all, ranks, 1, {1e9 / 8, 0.0}).network;
  };
  EXPECT_DOUBLE_EQ(network(2), 1.0);
  EXPECT_DOUBLE_EQ(network(3), 3.0);
  EXPECT_DOUBLE_EQ(network(4), 1.5);
  EXPECT_DOUBLE_EQ(network(8), 1.75);
  EXPECT_DOUBLE_EQ(network(6), 3.5);
}

TEST(StepTime, PipelinesFillAndEmpty) {
  // Each of two pipelines of four stages has four micro-batches of 0.5 s a stage; 0.1 s on the network hide behind them
  // but for the first and the last.
  const StepTime time = step_time(work(0.0), 8, 4, kGigabit);
  EXPECT_DOUBLE_EQ(time.computing, 4 * 0.5 + 3 * (0.5 + 2 * 0.101));
}

TEST(StepTime, RatesAreReadWithTheirUnit) {
  EXPECT_EQ(parse_bit_rate("10Gbit"), 10e9);
  EXPECT_EQ(parse_bit_rate("2.5Gbit"), 2.5e9);
  EXPECT_EQ(parse_bit_rate("100Mbit"), 100e6);
  for (const char* wrong : {"", "10", "Gbit", "-1Gbit", "0Gbit", "1Gbit/s", "infGbit", "nanGbit", "1 Gbit"})
    EXPECT_EQ(parse_bit_rate(wrong), 0.0) << wrong;
}

}  // namespace
}  // namespace ossature
