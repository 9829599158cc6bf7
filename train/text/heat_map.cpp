#include "train/text/heat_map.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "train/text/markup.h"
#include "train/text/number_text.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

// In pixels.
constexpr int kMargin = 16, kCellHeight = 14, kCharacter = 7, kLine = 18, kBetween = 28;
constexpr int kWideCell = 14, kNarrowCell = 7;  // maps of more columns than kManyColumns are narrow
constexpr std::size_t kManyColumns = 64;
constexpr int kLegendSteps = 8;
constexpr double kFaintest = 0.06;  // opacity of the least value: still told from an empty cell

// One hue whose opacity grows with the value works on any background. A style inside of an SVG that is part of a page
// is the whole page's, so all of it is of .heat.
constexpr const char* kStyle =
    "<style>.heat text{font:11px ui-monospace,monospace;fill:#24292f}.heat .title{font-weight:bold;font-size:13px}"
    ".heat .page{fill:#fff}.heat .cell{fill:#0550ae}.heat .empty{fill:none;stroke:#8c959f;stroke-opacity:.35}"
    "@media screen and (prefers-color-scheme:dark){.heat text{fill:#e6edf3}.heat .page{fill:#0d1117}"
    ".heat .cell{fill:#79c0ff}}</style>\n";

std::string text_at(int x, int y, const std::string& text, const std::string& attributes = "") {
  return "<text x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\"" + attributes + ">" +
         escaped_markup(visible_line(text)) + "</text>\n";
}

std::string cell_at(int x, int y, int width, double opacity, const std::string& told) {
  std::string cell = "<rect x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\" width=\"" +
                     std::to_string(width - 1) + "\" height=\"" + std::to_string(kCellHeight - 1) + "\"";
  cell += std::isnan(opacity) ? " class=\"empty\""
                              : " class=\"cell\" fill-opacity=\"" + number_text("%.3f", opacity) + "\"";
  return cell + (told.empty() ? "/>\n" : "><title>" + escaped_markup(visible_line(told)) + "</title></rect>\n");
}

std::size_t longest(const std::vector<std::string>& names) {
  std::size_t length = 0;
  for (const std::string& name : names) length = std::max(length, name.size());
  return length;
}

/// Least and largest value.
struct Range {
  double low = INFINITY, high = -INFINITY;

  explicit Range(const HeatMap& map) {
    for (const auto& row : map.values) {
      for (const double value : row) {
        if (std::isnan(value)) continue;
        low = std::min(low, value);
        high = std::max(high, value);
      }
    }
  }
  [[nodiscard]] bool empty() const { return low > high; }
  [[nodiscard]] double opacity(double value) const {
    if (std::isnan(value)) return value;
    return high > low ? kFaintest + (1.0 - kFaintest) * (value - low) / (high - low) : 1.0;
  }
};

/// A map drawn at (x, y).
struct Drawing {
  std::string svg;
  int width, height;
};

Drawing draw(const HeatMap& map, int x, int y) {
  const int cell = map.columns.size() > kManyColumns ? kNarrowCell : kWideCell;
  const Range range(map);
  std::string svg = text_at(x, y + kLine - 5, map.title, " class=\"title\"");
  int top = y + kLine;
  if (!range.empty()) {  // the legend
    const std::string low = number_text("%.4g", range.low) + " ";
    svg += text_at(x, top + kLine - 6, low);
    int at = x + static_cast<int>(low.size()) * kCharacter;
    for (int step = 0; step <= kLegendSteps; ++step, at += kWideCell) {
      svg += cell_at(at, top, kWideCell, kFaintest + (1.0 - kFaintest) * step / kLegendSteps, "");
    }
    svg += text_at(at + kCharacter, top + kLine - 6, number_text("%.4g", range.high));
  }
  top += kLine + 4;
  const int left = x + static_cast<int>(longest(map.rows) + 1) * kCharacter;
  // Names of columns stand upright where they are wider than a column, and only every eighth where there are many.
  const std::size_t name_length = longest(map.columns);
  const bool upright = static_cast<int>(name_length) * kCharacter > cell;
  const std::size_t every = map.columns.size() > 16 ? 8 : 1;
  top += upright && every == 1 ? static_cast<int>(name_length) * kCharacter : kLine;
  for (std::size_t c = 0; c < map.columns.size(); c += every) {
    const int at = left + static_cast<int>(c) * cell;
    if (upright && every == 1) {
      const std::string turn =
          " transform=\"rotate(-90 " + std::to_string(at + cell - 4) + " " + std::to_string(top - 4) + ")\"";
      svg += text_at(at + cell - 4, top - 4, map.columns[c], turn);
    } else {
      svg += text_at(at, top - 4, map.columns[c]);
    }
  }
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    const int row_top = top + static_cast<int>(r) * kCellHeight;
    svg += text_at(x, row_top + kCellHeight - 4, map.rows[r]);
    for (std::size_t c = 0; c < map.columns.size(); ++c) {
      const double value = map.values[r][c];
      const std::string place = map.rows[r] + ", " + map.columns[c] + ": ";
      svg += cell_at(left + static_cast<int>(c) * cell, row_top, cell, range.opacity(value),
                     place + (std::isnan(value) ? "none" : number_text("%.6g", value)));
    }
  }
  const int legend = (2 * 10 + kLegendSteps * 2) * kCharacter;
  const int width = std::max({left - x + static_cast<int>(map.columns.size()) * cell, legend,
                              static_cast<int>(map.title.size()) * (kCharacter + 1)});
  return {std::move(svg), width, top - y + static_cast<int>(map.rows.size()) * kCellHeight};
}

}  // namespace

std::string heat_maps_svg(const std::string& title, const std::vector<std::vector<HeatMap>>& bands) {
  std::string body = title.empty() ? "" : text_at(kMargin, kMargin + 12, title, " class=\"title\"");
  int y = title.empty() ? kMargin : kMargin + kLine + kBetween / 2,
      width = static_cast<int>(title.size()) * (kCharacter + 1);
  for (const auto& band : bands) {
    int x = kMargin, height = 0;
    for (const HeatMap& map : band) {
      const Drawing drawing = draw(map, x, y);
      body += drawing.svg;
      x += drawing.width + kBetween;
      height = std::max(height, drawing.height);
    }
    width = std::max(width, x - kBetween - kMargin);
    y += height + kBetween;
  }
  std::string told = title;
  for (const auto& band : bands)
    for (const HeatMap& map : band) told += (told.empty() ? "" : "; ") + map.title;
  const std::string w = std::to_string(width + 2 * kMargin), h = std::to_string(y - kBetween + kMargin);
  return "<svg class=\"heat\" xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h +
         "\" viewBox=\"0 0 " + w + " " + h + "\">\n" + kStyle +
         "<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n" + body + "</svg>\n";
}

}  // namespace ossature
