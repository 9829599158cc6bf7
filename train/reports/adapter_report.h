// What `ossature adapter` tells: tables of figures, for people and for programs, and a picture.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/adapter/adapter_combination.h"
#include "model/adapter/adapter_difference.h"
#include "model/adapter/adapter_figures.h"
#include "train/reports/inspection.h"
#include "train/text/heat_map.h"

namespace ossature {

/// Tables "weights" (a row a target; of experts the norm is of all together, the ranks are medians) and "experts" (a
/// row a target with experts: least, median and largest). `per_expert` adds the table "matrices", a row an expert.
[[nodiscard]] Inspection figures_report(const std::filesystem::path& adapter, const std::vector<TargetFigures>& figures,
                                        bool per_expert);

/// Norms (in relation to the base weights where known): layers by weights and by experts, those that the adapter has.
[[nodiscard]] std::vector<HeatMap> norm_maps(const std::vector<TargetFigures>& figures);

/// An SVG: norms (in relation to the base weights where known) and effective ranks, layers by weights and by experts.
[[nodiscard]] std::string figures_picture(const std::filesystem::path& adapter,
                                          const std::vector<TargetFigures>& figures);

/// Fields "parameters" and "kept_energy_share" of the adapter written to `out` and a table "weights": a row a target if
/// `per_target`, else a row a slot.
[[nodiscard]] Inspection resize_report(const std::filesystem::path& out, const ResizedLora& resized, bool per_target);

/// A row a target: norms, the difference's norm in relation to the first's, and the cosine (of two deltas that are not
/// zero).
[[nodiscard]] Inspection difference_report(const std::filesystem::path& first, const std::filesystem::path& second,
                                           const std::vector<TargetDifference>& differences);

}  // namespace ossature
