#include "train/text/progress.h"

#include <gtest/gtest.h>

namespace ossature {
namespace {

TEST(ProgressLine, SharesRatesAndTimeLeft) {
  const std::vector<ProgressAmount> amounts = {{50'000'000, "bytes"}, {12'300'000, "tokens"}};
  EXPECT_EQ(progress_line("prepare", 50, 200, 10, amounts, false), "prepare 25 %  5.0 MB/s  1.2 M tokens/s  0:30 left");
  EXPECT_EQ(progress_line("prepare", 50, 200, 10, amounts, true),
            "prepare  [######..................]  25 %  5.0 MB/s  1.2 M tokens/s  0:30 left");
  EXPECT_EQ(progress_line("export", 0, 9, 0, {}, false), "export 0 %");
  EXPECT_EQ(progress_line("export", 9, 9, 7, {}, true), "export  [########################]  100 %");
  EXPECT_EQ(progress_line("export", 1, 4, 2000, {}, false), "export 25 %  1:40:00 left");
}

TEST(ProgressLine, WithoutATotalOnlyRates) {
  EXPECT_EQ(progress_line("prepare", 50, 0, 10, {{8120, "tokens"}, {999'400, "bytes"}}, true),
            "prepare  812 tokens/s  100 kB/s");
}

TEST(ProgressLine, FitsAWindow) {
  const std::vector<ProgressAmount> amounts = {{123'456'789'012, "bytes"}, {12'345'678'901, "tokens"}};
  EXPECT_LE(progress_line("prepare", 1, 12'345'678, 3.5, amounts, true).size(), 90u);
  EXPECT_LE(progress_line("prepare", 99, 100, 3600, amounts, true).size(), 79u);
}

TEST(ProgressLine, MoreDoneThanThereShouldBeIsAll) {  // a file that grows while it is read
  EXPECT_EQ(progress_line("prepare", 30, 20, 10, {}, false), "prepare 100 %");
}

}  // namespace
}  // namespace ossature
