// Line charts as SVG for a page, which brings their style along (kLineChartStyle).
#pragma once

#include <string>
#include <vector>

namespace ossature {

struct ChartLine {
  enum Look { kThin, kThick, kDots };
  std::string name;
  Look look = kThick;
  std::vector<double> x, y;  // as many of each, x not falling; a y that is not finite is a gap
};

struct LineChart {
  std::string title;             // what is above the vertical axis, with its unit
  std::string horizontal;        // what is below the other
  std::vector<ChartLine> lines;  // thin ones lie below; colours go by position
  std::vector<double> marks;     // of the horizontal axis: dashed lines across
};

/// One SVG as wide as its place. Of a long line each pixel's least and largest value are drawn, so no spike is lost.
/// `id` makes the ids inside of it unique in the page.
[[nodiscard]] std::string line_chart_svg(const LineChart& chart, const std::string& id);

/// CSS for light, dark and print.
extern const char* const kLineChartStyle;

/// The weighted mean of each value with those before it, where a weight falls to 1/e over `span` values. What is not
/// finite is passed over.
[[nodiscard]] std::vector<double> smoothed(const std::vector<double>& values, double span);

/// Round values that cut low .. high into about `count` parts. Two ends that are equal give one.
[[nodiscard]] std::vector<double> axis_ticks(double low, double high, int count);

}  // namespace ossature
