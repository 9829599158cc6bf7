#include "train/run/run_view.h"

#include <gtest/gtest.h>

namespace ossature {
namespace {

StepMetrics twelfth_step() {
  StepMetrics metrics;
  metrics.step = 12;
  metrics.loss = 9.0;
  metrics.learning_rate = 1.8e-4;
  metrics.tokens = 1030;
  metrics.seconds = 2.5;
  metrics.peak_rss_bytes = 12'100'000'000;
  return metrics;
}

const RunOutlook kOutlook{48, 2.314, 185.0, 0.814};

TEST(LiveLine, SaysHowFarAndHowWell) {
  EXPECT_EQ(live_line(twelfth_step(), kOutlook, 200),
            "[######..................]  12/48  loss 2.3140  lr 1.80e-04  412 tokens/s (81 %)  12.1 GB  3:05 left");
  RunOutlook unknown = kOutlook;
  unknown.share_of_roofline.reset();
  EXPECT_EQ(live_line(twelfth_step(), unknown, 200),
            "[######..................]  12/48  loss 2.3140  lr 1.80e-04  412 tokens/s  12.1 GB  3:05 left");
}

TEST(LiveLine, IsNeverWiderThanTheTerminal) {
  EXPECT_EQ(live_line(twelfth_step(), kOutlook, 79),
            "12/48  loss 2.3140  lr 1.80e-04  412 tokens/s (81 %)  12.1 GB  3:05 left");
  EXPECT_EQ(live_line(twelfth_step(), kOutlook, 60), "12/48  loss 2.3140  412 tokens/s (81 %)  12.1 GB  3:05 left");
  EXPECT_EQ(live_line(twelfth_step(), kOutlook, 50), "12/48  loss 2.3140  412 tokens/s (81 %)  3:05 left");
  EXPECT_EQ(live_line(twelfth_step(), kOutlook, 30), "12/48  loss 2.3140  3:05 left");
  EXPECT_EQ(live_line(twelfth_step(), kOutlook, 10), "12/48  los");
}

TEST(LiveLine, TheBarIsFullOnlyAtTheEnd) {
  StepMetrics metrics = twelfth_step();
  metrics.step = 47;
  EXPECT_NE(live_line(metrics, kOutlook, 200).find("#.]"), std::string::npos);
  metrics.step = 48;
  EXPECT_NE(live_line(metrics, kOutlook, 200).find("##]"), std::string::npos);
}

}  // namespace
}  // namespace ossature
