// What a chart shows, read from the SVG.
#include "train/text/line_chart.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/support/occurrences.h"

namespace ossature {
namespace {

/// The path of the first line.
std::string path(const std::string& svg) {
  const std::size_t begin = svg.find(" d=\"") + 4;
  return svg.substr(begin, svg.find('"', begin) - begin);
}

LineChart chart(std::vector<double> x, std::vector<double> y) {
  return {"loss", "step", {{"training", ChartLine::kThick, std::move(x), std::move(y)}}, {}};
}

TEST(LineChart, ValuesLieBetweenTheirLeastAndLargest) {
  // The plot is 46 to 390 across and 44 to 200 down.
  EXPECT_EQ(path(line_chart_svg(chart({1, 2, 3}, {4, 2, 3}), "a")), "M46.0 44.0L218.0 200.0L390.0 122.0");
  EXPECT_EQ(path(line_chart_svg(chart({1}, {4}), "a")), "M218.0 122.0");
}

TEST(LineChart, WhatIsNotFiniteIsAGap) {
  EXPECT_EQ(path(line_chart_svg(chart({0, 1, 2, 3, 4}, {0, NAN, 1, INFINITY, 0}), "a")),
            "M46.0 200.0M218.0 44.0M390.0 200.0");
  const std::string empty = line_chart_svg(chart({1, 2}, {NAN, NAN}), "a");
  EXPECT_NE(empty.find("no values yet</text>"), std::string::npos);
  EXPECT_EQ(empty.find("<path"), std::string::npos);
  EXPECT_NE(line_chart_svg({"loss", "step", {}, {}}, "a").find("no values yet</text>"), std::string::npos);
}

TEST(LineChart, ALongLineKeepsItsSpikesAndIsShort) {
  std::vector<double> x, y(100'000, 1.0);
  for (std::size_t i = 0; i < y.size(); ++i) x.push_back(static_cast<double>(i));
  y[34'567] = 100.0;
  y[70'001] = 0.0;
  const std::string line = path(line_chart_svg(chart(x, y), "a"));
  EXPECT_LT(count(line, "L"), 1500U);
  EXPECT_EQ(count(line, " 44.0"), 1U);
  EXPECT_EQ(count(line, " 200.0"), 1U);
}

TEST(LineChart, TellsWhoCannotSeeIt) {
  LineChart two = chart({1, 2}, {4, 2});
  two.lines.push_back({"validation", ChartLine::kDots, {1, 2}, {5, 3}});
  two.marks = {2, 7};
  const std::string svg = line_chart_svg(two, "chart7");
  EXPECT_NE(svg.find("role=\"img\" aria-labelledby=\"chart7-title chart7-description\""), std::string::npos);
  EXPECT_NE(svg.find("training from 4 to 2, least 2, largest 4; validation from 5 to 3, least 3, largest 5</desc>"),
            std::string::npos)
      << svg;
  EXPECT_EQ(count(svg, "class=\"dot\""), 3U) << "two and the legend's";
  EXPECT_EQ(count(svg, "class=\"mark\""), 1U) << "7 lies outside";
}

TEST(LineChart, TextOfOthersIsEscaped) {
  LineChart hostile{"<script>\x1b", "\"&", {{"</svg>", ChartLine::kThick, {1}, {1}}}, {}};
  const std::string svg = line_chart_svg(hostile, "a");
  EXPECT_NE(svg.find(">&lt;script&gt;\\x1b<"), std::string::npos);
  EXPECT_EQ(count(svg, "</svg>"), 1U);
}

TEST(LineChart, TicksAreRound) {
  EXPECT_EQ(axis_ticks(0, 80, 4), (std::vector<double>{0, 20, 40, 60, 80}));
  EXPECT_EQ(axis_ticks(2.71, 4.1, 3), (std::vector<double>{3, 3.5, 4}));
  EXPECT_EQ(axis_ticks(5, 5, 4), (std::vector<double>{5}));
  EXPECT_TRUE(axis_ticks(INFINITY, -INFINITY, 4).empty());
}

TEST(LineChart, SmoothingWeighsWhatIsNear) {
  for (const double value : smoothed({3, 3, 3}, 10)) EXPECT_NEAR(value, 3.0, 1e-15);
  const double keep = std::exp(-0.5);
  const std::vector<double> found = smoothed({1, NAN, 4}, 2);
  EXPECT_EQ(found[1], 1.0);
  EXPECT_NEAR(found[2], (keep * 1 + 4) / (keep + 1), 1e-15);
  EXPECT_TRUE(std::isnan(smoothed({NAN}, 2)[0]));
}

}  // namespace
}  // namespace ossature
