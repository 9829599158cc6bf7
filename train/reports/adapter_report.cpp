#include "train/reports/adapter_report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "train/text/heat_map.h"

namespace ossature {
namespace {

using Table = Inspection::Table;
using Value = Inspection::Value;
using Figure = std::function<double(const DeltaFigures&)>;

const Figure kNorm = [](const DeltaFigures& matrix) { return matrix.norm; };
const Figure kRelativeNorm = [](const DeltaFigures& matrix) { return matrix.relative_norm.value_or(NAN); };
const Figure kEffectiveRank = [](const DeltaFigures& matrix) { return matrix.effective_rank; };
const Figure kStableRank = [](const DeltaFigures& matrix) { return matrix.stable_rank; };

struct Spread {
  double least, median, largest;
};

Spread spread(const TargetFigures& target, const Figure& figure) {
  std::vector<double> values;
  for (const DeltaFigures& matrix : target.matrices) values.push_back(figure(matrix));
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {values.front(), median, values.back()};
}

bool has_base(const std::vector<TargetFigures>& figures) {
  return !figures.empty() && figures.front().relative_norm.has_value();
}

/// The names of the columns of the least, median and largest of `name`.
void add_columns(Table& table, const std::string& name) {
  for (const char* which : {"_min", "_median", "_max"}) table.columns.push_back(name + which);
}
void add_values(std::vector<Value>& row, const Spread& values) {
  row.insert(row.end(), {values.least, values.median, values.largest});
}

Table weights_table(const std::vector<TargetFigures>& figures) {
  Table table{"weights", {"layer", "weight", "r", "norm"}, {}};
  if (has_base(figures)) table.columns.push_back("relative_norm");
  table.columns.insert(table.columns.end(), {"effective_rank", "stable_rank"});
  for (const TargetFigures& target : figures) {
    std::vector<Value> row{target.target.layer, slot_name(target.target.slot), target.target.r, target.norm};
    if (target.relative_norm) row.emplace_back(*target.relative_norm);
    row.emplace_back(spread(target, kEffectiveRank).median);
    row.emplace_back(spread(target, kStableRank).median);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table experts_table(const std::vector<TargetFigures>& figures) {
  Table table{"experts", {"layer", "weight"}, {}};
  const Figure& size = has_base(figures) ? kRelativeNorm : kNorm;
  add_columns(table, has_base(figures) ? "relative_norm" : "norm");
  add_columns(table, "effective_rank");
  for (const TargetFigures& target : figures) {
    if (target.target.a_shape.size() != 3) continue;
    std::vector<Value> row{target.target.layer, slot_name(target.target.slot)};
    add_values(row, spread(target, size));
    add_values(row, spread(target, kEffectiveRank));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table matrices_table(const std::vector<TargetFigures>& figures) {
  Table table{"matrices", {"layer", "weight", "expert", "norm"}, {}};
  if (has_base(figures)) table.columns.push_back("relative_norm");
  table.columns.insert(table.columns.end(), {"effective_rank", "stable_rank"});
  for (const TargetFigures& target : figures) {
    if (target.target.a_shape.size() != 3) continue;
    for (std::size_t e = 0; e < target.matrices.size(); ++e) {
      const DeltaFigures& matrix = target.matrices[e];
      std::vector<Value> row{target.target.layer, slot_name(target.target.slot), static_cast<std::int64_t>(e),
                             matrix.norm};
      if (matrix.relative_norm) row.emplace_back(*matrix.relative_norm);
      row.emplace_back(matrix.effective_rank);
      row.emplace_back(matrix.stable_rank);
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

std::vector<std::string> layer_names(const std::vector<TargetFigures>& figures) {
  std::int64_t layers = 0;
  for (const TargetFigures& target : figures) layers = std::max(layers, target.target.layer + 1);
  std::vector<std::string> names;
  for (std::int64_t n = 0; n < layers; ++n) names.push_back(std::to_string(n));
  return names;
}

/// Layers by weights that are no experts'.
HeatMap projections_map(const std::vector<TargetFigures>& figures, const std::string& title, const Figure& figure) {
  HeatMap map{title, {}, layer_names(figures), {}};
  std::set<LoraSlot> slots;
  for (const TargetFigures& target : figures)
    if (target.target.a_shape.size() != 3) slots.insert(target.target.slot);
  for (const LoraSlot slot : slots) map.columns.push_back(slot_name(slot));
  map.values.assign(map.rows.size(), std::vector<double>(slots.size(), NAN));
  for (const TargetFigures& target : figures) {
    const auto slot = slots.find(target.target.slot);
    if (slot == slots.end()) continue;
    map.values[static_cast<std::size_t>(target.target.layer)]
              [static_cast<std::size_t>(std::distance(slots.begin(), slot))] = figure(target.matrices.front());
  }
  return map;
}

/// Layers by experts.
HeatMap experts_map(const std::vector<TargetFigures>& figures, LoraSlot slot, const std::string& title,
                    const Figure& figure) {
  HeatMap map{title, {}, layer_names(figures), {}};
  for (const TargetFigures& target : figures) {
    if (target.target.slot != slot) continue;
    if (map.columns.empty()) {
      for (std::size_t e = 0; e < target.matrices.size(); ++e) map.columns.push_back(std::to_string(e));
      map.values.assign(map.rows.size(), std::vector<double>(target.matrices.size(), NAN));
    }
    std::vector<double>& row = map.values[static_cast<std::size_t>(target.target.layer)];
    for (std::size_t e = 0; e < target.matrices.size(); ++e) row[e] = figure(target.matrices[e]);
  }
  return map;
}

/// One of the weights that are no experts' and one of each kind of experts', where the adapter has them.
std::vector<HeatMap> maps_of(const std::vector<TargetFigures>& figures, const std::string& name, const Figure& figure) {
  std::vector<HeatMap> maps{projections_map(figures, name, figure)};
  for (const LoraSlot slot : {LoraSlot::kGateUpProj, LoraSlot::kDownProj})
    maps.push_back(experts_map(figures, slot, name + ", " + slot_name(slot), figure));
  std::erase_if(maps, [](const HeatMap& map) { return map.columns.empty(); });
  return maps;
}

std::int64_t numel(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

}  // namespace

Inspection figures_report(const std::filesystem::path& adapter, const std::vector<TargetFigures>& figures,
                          bool per_expert) {
  std::int64_t parameters = 0;
  double squares = 0.0;
  for (const TargetFigures& target : figures) {
    parameters += numel(target.target.a_shape) + numel(target.target.b_shape);
    squares += target.norm * target.norm;
  }
  Inspection report{"adapter", adapter, {{"parameters", parameters}, {"norm", std::sqrt(squares)}}, {}};
  report.tables = {weights_table(figures), experts_table(figures)};
  if (per_expert) report.tables.push_back(matrices_table(figures));
  return report;
}

std::vector<HeatMap> norm_maps(const std::vector<TargetFigures>& figures) {
  return has_base(figures) ? maps_of(figures, "relative norm", kRelativeNorm) : maps_of(figures, "norm", kNorm);
}

std::string figures_picture(const std::filesystem::path& adapter, const std::vector<TargetFigures>& figures) {
  return heat_maps_svg("LoRA deltas by layer: " + adapter.string(),
                       {norm_maps(figures), maps_of(figures, "effective rank", kEffectiveRank)});
}

Inspection resize_report(const std::filesystem::path& out, const ResizedLora& resized, bool per_target) {
  Inspection report{"adapter",
                    out,
                    {{"parameters", resized.lora.parameters().numel()}, {"kept_energy_share", resized.kept_energy}},
                    {}};
  if (per_target) {
    Table table{"weights", {"layer", "weight", "r_before", "r", "kept_energy_share", "least_kept_energy_share"}, {}};
    for (const ResizedTarget& target : resized.targets) {
      table.rows.push_back({target.layer, slot_name(target.slot), target.r_before, target.r, target.kept_energy,
                            target.least_kept_energy});
    }
    report.tables.push_back(std::move(table));
    return report;
  }
  struct Slot {
    std::int64_t layers = 0, r_before = 0, r_min = std::numeric_limits<std::int64_t>::max(), r_max = 0;
    double least = 1.0, least_expert = 1.0;
  };
  std::map<LoraSlot, Slot> slots;
  for (const ResizedTarget& target : resized.targets) {
    Slot& slot = slots[target.slot];
    ++slot.layers;
    slot.r_before = std::max(slot.r_before, target.r_before);
    slot.r_min = std::min(slot.r_min, target.r);
    slot.r_max = std::max(slot.r_max, target.r);
    slot.least = std::min(slot.least, target.kept_energy);
    slot.least_expert = std::min(slot.least_expert, target.least_kept_energy);
  }
  Table table{
      "weights", {"weight", "layers", "r_before", "r_min", "r_max", "least_layer_share", "least_expert_share"}, {}};
  for (const auto& [slot, group] : slots) {
    table.rows.push_back(
        {slot_name(slot), group.layers, group.r_before, group.r_min, group.r_max, group.least, group.least_expert});
  }
  report.tables.push_back(std::move(table));
  return report;
}

Inspection difference_report(const std::filesystem::path& first, const std::filesystem::path& second,
                             const std::vector<TargetDifference>& differences) {
  Table table{"weights",
              {"layer", "weight", "first_norm", "second_norm", "difference_norm", "relative_difference", "cosine"},
              {}};
  TargetDifference all;
  const auto cosine = [](const TargetDifference& difference) {
    const double norms = difference.first_norm * difference.second_norm;
    return norms > 0.0 ? difference.inner_product / norms : 0.0;
  };
  // Of a zero first adapter everything is different: infinitely, or not at all.
  const auto relative = [](const TargetDifference& difference) {
    return difference.difference_norm == 0.0 ? 0.0 : difference.difference_norm / difference.first_norm;
  };
  for (const TargetDifference& difference : differences) {
    table.rows.push_back({difference.layer, slot_name(difference.slot), difference.first_norm, difference.second_norm,
                          difference.difference_norm, relative(difference), cosine(difference)});
    all.first_norm = std::hypot(all.first_norm, difference.first_norm);
    all.second_norm = std::hypot(all.second_norm, difference.second_norm);
    all.difference_norm = std::hypot(all.difference_norm, difference.difference_norm);
    all.inner_product += difference.inner_product;
  }
  Inspection report{"difference",
                    first,
                    {{"minus", second.string()},
                     {"first_norm", all.first_norm},
                     {"second_norm", all.second_norm},
                     {"difference_norm", all.difference_norm},
                     {"relative_difference", relative(all)},
                     {"cosine", cosine(all)}},
                    {}};
  report.tables.push_back(std::move(table));
  return report;
}

}  // namespace ossature
