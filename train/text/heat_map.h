// Heat maps as one SVG file that needs nothing else and reads in light and dark.
#pragma once

#include <string>
#include <vector>

namespace ossature {

/// A grid of values; NaN is an empty cell. Every row of `values` has as many as there are columns.
struct HeatMap {
  std::string title;
  std::vector<std::string> columns;
  std::vector<std::string> rows;
  std::vector<std::vector<double>> values;
};

/// `bands` below each other, the maps of a band beside each other. Each map has its own scale, from its least to its
/// largest value, which its legend gives; a cell tells its row, column and value when pointed at. `title` may be "".
/// The SVG can be a file or a part of a page.
[[nodiscard]] std::string heat_maps_svg(const std::string& title, const std::vector<std::vector<HeatMap>>& bands);

}  // namespace ossature
