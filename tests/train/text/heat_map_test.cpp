// What a heat map shows, read from the SVG.
#include "train/text/heat_map.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/support/occurrences.h"

namespace ossature {
namespace {

/// The opacity of the cell that tells `told`; "" if it is empty.
std::string opacity_of(const std::string& svg, const std::string& told) {
  const std::size_t title = svg.find("<title>" + told + "</title>");
  if (title == std::string::npos) return "not there";
  const std::size_t cell = svg.rfind("<rect", title), opacity = svg.find("fill-opacity=\"", cell);
  return opacity > title ? "" : svg.substr(opacity + 14, 5);
}

const HeatMap kMap{"norm", {"q_proj", "k_proj"}, {"0", "1"}, {{1.0, 3.0}, {2.0, NAN}}};

TEST(HeatMap, EachCellHasItsValueAndTheOpacityOfItsPlaceInTheRange) {
  const std::string svg = heat_maps_svg("mine", {{kMap}});
  EXPECT_EQ(opacity_of(svg, "0, q_proj: 1"), "0.060");
  EXPECT_EQ(opacity_of(svg, "0, k_proj: 3"), "1.000");
  EXPECT_EQ(opacity_of(svg, "1, q_proj: 2"), "0.530");
  EXPECT_EQ(opacity_of(svg, "1, k_proj: none"), "");
  for (const char* text : {">mine<", ">norm<", ">q_proj<", ">1 <", ">3<"})
    EXPECT_NE(svg.find(text), std::string::npos) << text;
}

TEST(HeatMap, EqualValuesAreAllFull) {
  const std::string svg = heat_maps_svg("mine", {{{"norm", {"a"}, {"0", "1"}, {{5.0}, {5.0}}}}});
  EXPECT_EQ(opacity_of(svg, "0, a: 5"), "1.000");
  EXPECT_EQ(opacity_of(svg, "1, a: 5"), "1.000");
}

TEST(HeatMap, IsOneFileForLightAndDark) {
  const std::string svg = heat_maps_svg("mine", {{kMap, kMap}, {kMap}});
  EXPECT_TRUE(svg.starts_with("<svg class=\"heat\" xmlns=\"http://www.w3.org/2000/svg\" "));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_EQ(count(svg, "<title>"), 12U);
  for (const char* outside : {"href", "url(", "@import", "<script", "<image"})
    EXPECT_EQ(svg.find(outside), std::string::npos) << outside;
}

TEST(HeatMap, TextOfOthersIsEscaped) {
  const std::string svg = heat_maps_svg("<script>&\"\x1b", {});
  EXPECT_NE(svg.find("&lt;script&gt;&amp;&quot;\\x1b<"), std::string::npos) << svg;
}

TEST(HeatMap, NothingToShow) {
  const std::string svg = heat_maps_svg("empty", {{{"norm", {"a"}, {"0"}, {{NAN}}}}});
  EXPECT_EQ(opacity_of(svg, "0, a: none"), "");
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

}  // namespace
}  // namespace ossature
