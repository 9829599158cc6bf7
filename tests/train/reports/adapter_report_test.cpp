// What the tables and the picture make of figures.
#include "train/reports/adapter_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace ossature {
namespace {

using nlohmann::json;

LoraTarget target(LoraSlot slot, std::int64_t layer, std::int64_t r, std::vector<std::int64_t> experts = {}) {
  LoraTarget made;
  made.layer = layer;
  made.slot = slot;
  made.r = r;
  made.a_shape = made.b_shape = std::move(experts);
  made.a_shape.insert(made.a_shape.end(), {r, 10});
  made.b_shape.insert(made.b_shape.end(), {20, r});
  return made;
}

DeltaFigures matrix(double norm, double effective_rank) {
  return {norm, norm / 10.0, effective_rank, 1.0};
}

/// q_proj of layers 0 and 1 and the experts of layer 1, of which there are four.
std::vector<TargetFigures> figures() {
  return {{target(LoraSlot::kQProj, 0, 3), {matrix(3.0, 2.5)}, 3.0, 0.3},
          {target(LoraSlot::kQProj, 1, 3), {matrix(4.0, 1.5)}, 4.0, 0.4},
          {target(LoraSlot::kDownProj, 1, 2, {4}),
           {matrix(6.0, 1.1), matrix(2.0, 1.2), matrix(0.0, 0.0), matrix(3.0, 1.9)},
           7.0,
           0.35}};
}

TEST(AdapterReport, FiguresByWeightAndOverExperts) {
  const json report = json::parse(to_json(figures_report("mine", figures(), true)));
  EXPECT_EQ(report["kind"], "adapter");
  EXPECT_EQ(report["parameters"], 2 * 3 * 30 + 4 * 2 * 30);
  EXPECT_NEAR(report["norm"].get<double>(), std::sqrt(9.0 + 16.0 + 49.0), 1e-12);
  ASSERT_EQ(report["weights"].size(), 3U);
  EXPECT_EQ(report["weights"][1], json::parse(R"({"layer": 1, "weight": "q_proj", "r": 3, "norm": 4.0,
      "relative_norm": 0.4, "effective_rank": 1.5, "stable_rank": 1.0})"));
  EXPECT_EQ(report["weights"][2]["norm"], 7.0);
  EXPECT_NEAR(report["weights"][2]["effective_rank"].get<double>(), 1.15, 1e-12);  // median of four
  ASSERT_EQ(report["experts"].size(), 1U);
  EXPECT_EQ(report["experts"][0]["relative_norm_min"], 0.0);
  EXPECT_NEAR(report["experts"][0]["relative_norm_median"].get<double>(), 0.25, 1e-12);
  EXPECT_NEAR(report["experts"][0]["relative_norm_max"].get<double>(), 0.6, 1e-12);
  EXPECT_EQ(report["experts"][0]["effective_rank_max"], 1.9);
  ASSERT_EQ(report["matrices"].size(), 4U);
  EXPECT_EQ(report["matrices"][3]["expert"], 3);
  EXPECT_EQ(report["matrices"][3]["norm"], 3.0);
}

TEST(AdapterReport, WithoutABaseNormsAreAbsolute) {
  std::vector<TargetFigures> plain = figures();
  for (TargetFigures& figure : plain) {
    figure.relative_norm.reset();
    for (DeltaFigures& part : figure.matrices) part.relative_norm.reset();
  }
  const json report = json::parse(to_json(figures_report("mine", plain, false)));
  EXPECT_FALSE(report["weights"][0].contains("relative_norm"));
  EXPECT_EQ(report["experts"][0]["norm_max"], 6.0);
  EXPECT_FALSE(report.contains("matrices"));
  const std::string svg = figures_picture("mine", plain);
  EXPECT_NE(svg.find("<title>1, 0: 6</title>"), std::string::npos);
}

TEST(AdapterReport, PictureHasLayersByWeightsAndByExperts) {
  const std::string svg = figures_picture("mine", figures());
  for (const char* cell :
       {"0, q_proj: 0.3", "1, q_proj: 0.4", "1, 0: 0.6", "1, 3: 0.3", "0, q_proj: 2.5", "1, 3: 1.9", "0, 0: none"})
    EXPECT_NE(svg.find("<title>" + std::string(cell) + "</title>"), std::string::npos) << cell;
  EXPECT_EQ(svg.find("gate_up_proj"), std::string::npos) << "which the adapter has not got";
}

TEST(AdapterReport, DifferenceSumsUpOverTargets) {
  const json report = json::parse(to_json(difference_report(
      "a", "b", {{"x", 0, LoraSlot::kQProj, 3.0, 4.0, 5.0, 0.0}, {"y", 1, LoraSlot::kQProj, 4.0, 0.0, 4.0, 0.0}})));
  EXPECT_EQ(report["path"], "a");
  EXPECT_EQ(report["minus"], "b");
  EXPECT_NEAR(report["first_norm"].get<double>(), 5.0, 1e-12);
  EXPECT_NEAR(report["difference_norm"].get<double>(), std::sqrt(41.0), 1e-12);
  EXPECT_NEAR(report["relative_difference"].get<double>(), std::sqrt(41.0) / 5.0, 1e-12);
  EXPECT_EQ(report["weights"][1]["cosine"], 0.0);
  EXPECT_EQ(report["weights"][1]["relative_difference"], 1.0);
}

}  // namespace
}  // namespace ossature
