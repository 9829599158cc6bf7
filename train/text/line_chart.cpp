#include "train/text/line_chart.h"

#include <algorithm>
#include <cmath>

#include "train/text/markup.h"
#include "train/text/number_text.h"
#include "train/text/running_mean.h"
#include "train/text/visible_text.h"

namespace ossature {

const char* const kLineChartStyle =
    ".chart{display:block;width:100%;height:auto}.chart text{font:11px system-ui,sans-serif;fill:var(--ink)}"
    ".chart .title{font-weight:600;font-size:13px}.chart .grid{stroke:var(--line);stroke-width:1}"
    ".chart .mark{stroke:var(--faint);stroke-width:1;stroke-dasharray:2 3}"
    ".chart .line{fill:none;stroke-linejoin:round}.chart .thin{stroke-width:1;stroke-opacity:.5}"
    ".chart .thick{stroke-width:2}.chart .c0{stroke:var(--first);fill:none}.chart .c1{stroke:var(--first);fill:none}"
    ".chart .c2{stroke:var(--second);fill:none}.chart .dot{fill:var(--second);stroke:var(--paper);stroke-width:1}";

namespace {

// In the SVG's own units, which are pixels where the chart has 400 of them.
constexpr double kWidth = 400, kHeight = 236, kLeft = 46, kRight = 10, kTop = 44, kBottom = 36;
constexpr double kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;

std::string at(double value) {
  return number_text("%.1f", value);
}

struct Axis {
  double low = INFINITY, high = -INFINITY;

  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  [[nodiscard]] bool empty() const { return low > high; }
  /// 0 to 1.
  [[nodiscard]] double place(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

struct Scales {
  Axis x, y;

  [[nodiscard]] double left(double value) const { return kLeft + kPlotWidth * x.place(value); }
  [[nodiscard]] double top(double value) const { return kTop + kPlotHeight * (1.0 - y.place(value)); }
};

/// "M46.0 200.0L47.0 199.5...": of the points that fall on one pixel column the first, the least, the largest and the
/// last.
std::string path_of(const ChartLine& line, const Scales& scales) {
  std::string path;
  bool is_open = false;
  const auto add = [&](std::size_t i) {
    path += (is_open ? "L" : "M") + at(scales.left(line.x[i])) + " " + at(scales.top(line.y[i]));
    is_open = true;
  };
  for (std::size_t begin = 0, end = 0; begin < line.x.size(); begin = end) {
    end = begin + 1;
    if (!std::isfinite(line.y[begin])) {
      is_open = false;
      continue;
    }
    const double column = std::floor(scales.left(line.x[begin]));
    while (end < line.x.size() && std::isfinite(line.y[end]) && std::floor(scales.left(line.x[end])) == column) ++end;
    const auto values = line.y.begin();
    const auto first = values + static_cast<std::ptrdiff_t>(begin), last = values + static_cast<std::ptrdiff_t>(end);
    const auto [least, largest] = std::minmax_element(first, last);
    std::vector<std::size_t> kept{begin, static_cast<std::size_t>(least - values),
                                  static_cast<std::size_t>(largest - values), end - 1};
    std::sort(kept.begin(), kept.end());
    kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
    for (const std::size_t i : kept) add(i);
  }
  return path;
}

std::string dots_of(const ChartLine& line, const Scales& scales) {
  std::string dots;
  for (std::size_t i = 0; i < line.x.size(); ++i) {
    if (!std::isfinite(line.y[i])) continue;
    dots += "<circle class=\"dot\" cx=\"" + at(scales.left(line.x[i])) + "\" cy=\"" + at(scales.top(line.y[i])) +
            "\" r=\"3.5\"><title>" + number_text("%.0f", line.x[i]) + ": " + number_text("%.5g", line.y[i]) +
            "</title></circle>\n";
  }
  return dots;
}

std::string text(double x, double y, const std::string& what, const char* attributes = "") {
  return "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\"" + attributes + ">" + escaped_markup(visible_line(what)) +
         "</text>\n";
}

std::string line_class(std::size_t position) {
  return "c" + std::to_string(std::min<std::size_t>(position, 2));
}

std::string grid(const LineChart& chart, const Scales& scales) {
  std::string svg;
  const std::vector<double> levels = axis_ticks(scales.y.low, scales.y.high, 4);
  for (const double value : levels) {
    const std::string y = at(scales.top(value));
    svg += "<line class=\"grid\" x1=\"" + at(kLeft) + "\" x2=\"" + at(kWidth - kRight) + "\" y1=\"" + y + "\" y2=\"" +
           y + "\"/>\n";
    svg += text(kLeft - 5, scales.top(value) + 4, number_text("%.6g", value), " text-anchor=\"end\"");
  }
  for (const double value : axis_ticks(scales.x.low, scales.x.high, 5)) {
    if (value != std::floor(value)) continue;  // there is no half a step
    svg += text(scales.left(value), kHeight - kBottom + 15, number_text("%.0f", value), " text-anchor=\"middle\"");
  }
  for (const double value : chart.marks) {
    if (value < scales.x.low || value > scales.x.high) continue;
    const std::string x = at(scales.left(value));
    svg += "<line class=\"mark\" x1=\"" + x + "\" x2=\"" + x + "\" y1=\"" + at(kTop) + "\" y2=\"" +
           at(kHeight - kBottom) + "\"/>\n";
  }
  return svg + text(kLeft + kPlotWidth / 2, kHeight - 5, chart.horizontal, " text-anchor=\"middle\"");
}

/// A sample of each line and its name, in a row under the title.
std::string legend(const LineChart& chart) {
  constexpr double kSample = 18, kCharacter = 6.2;
  if (chart.lines.size() < 2) return "";
  std::string svg;
  double x = kLeft;
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    const ChartLine& line = chart.lines[i];
    if (line.look == ChartLine::kDots) {
      svg += "<circle class=\"dot\" cx=\"" + at(x + kSample / 2) + "\" cy=\"29\" r=\"3.5\"/>\n";
    } else {
      svg += "<line class=\"" + line_class(i) + (line.look == ChartLine::kThin ? " thin" : " thick") + "\" x1=\"" +
             at(x) + "\" x2=\"" + at(x + kSample - 4) + "\" y1=\"29\" y2=\"29\"/>\n";
    }
    svg += text(x + kSample, 33, line.name);
    x += kSample + kCharacter * static_cast<double>(line.name.size()) + 12;
  }
  return svg;
}

/// What a reader who does not see the chart is told.
std::string description(const LineChart& chart) {
  std::string told;
  for (const ChartLine& line : chart.lines) {
    Axis range;
    for (const double value : line.y) range.add(value);
    if (range.empty()) continue;
    told += (told.empty() ? "" : "; ") + line.name + " from " + number_text("%.5g", line.y.front()) + " to " +
            number_text("%.5g", line.y.back()) + ", least " + number_text("%.5g", range.low) + ", largest " +
            number_text("%.5g", range.high);
  }
  return told.empty() ? "no values yet" : told;
}

}  // namespace

std::vector<double> axis_ticks(double low, double high, int count) {
  if (!std::isfinite(low) || !std::isfinite(high)) return {};
  if (!(high > low)) return {low};
  const double rough = (high - low) / count, power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double round : {1.0, 2.0, 5.0}) {
    if (round * power >= rough) {
      step = round * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9);
  for (double i = first; i * step <= high + 1e-9 * step && ticks.size() < 20; ++i)
    ticks.push_back(i == 0 ? 0.0 : i * step);
  return ticks;
}

std::vector<double> smoothed(const std::vector<double>& values, double span) {
  RunningMean mean(span > 0 ? std::exp(-1.0 / span) : 0.0);
  std::vector<double> means;
  for (const double value : values) {
    if (std::isfinite(value)) mean.add(value);
    means.push_back(mean.value());
  }
  return means;
}

std::string line_chart_svg(const LineChart& chart, const std::string& id) {
  Scales scales;
  for (const ChartLine& line : chart.lines) {
    for (std::size_t i = 0; i < line.x.size(); ++i) {
      if (!std::isfinite(line.y[i])) continue;
      scales.x.add(line.x[i]);
      scales.y.add(line.y[i]);
    }
  }
  std::string svg =
      "<svg class=\"chart\" viewBox=\"0 0 " + number_text("%.0f", kWidth) + " " + number_text("%.0f", kHeight) +
      "\" role=\"img\" aria-labelledby=\"" + id + "-title " + id + "-description\">\n<title id=\"" + id + "-title\">" +
      escaped_markup(visible_line(chart.title)) + "</title>\n<desc id=\"" + id + "-description\">" +
      escaped_markup(visible_line(description(chart))) + "</desc>\n" + text(4, 14, chart.title, " class=\"title\"");
  if (scales.y.empty()) {
    svg += text(kWidth / 2, kHeight / 2, "no values yet", " text-anchor=\"middle\"");
    return svg + "</svg>\n";
  }
  svg += legend(chart) + grid(chart, scales);
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    const ChartLine& line = chart.lines[i];
    if (line.look == ChartLine::kDots) {
      svg += dots_of(line, scales);
    } else {
      svg += "<path class=\"line " + line_class(i) + (line.look == ChartLine::kThin ? " thin" : " thick") + "\" d=\"" +
             path_of(line, scales) + "\"/>\n";
    }
  }
  return svg + "</svg>\n";
}

}  // namespace ossature
