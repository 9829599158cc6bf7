#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "train/reports/inspection.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;
using Value = Inspection::Value;

std::string with_separators(std::int64_t number) {
  std::string text = std::to_string(number);
  const std::size_t first_digit = number < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first_digit + 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string bytes_text(std::int64_t bytes) {
  constexpr std::pair<double, const char*> kUnits[] = {{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}};
  for (const auto& [size, unit] : kUnits) {
    if (static_cast<double>(bytes) < size) continue;
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.2f %s", static_cast<double>(bytes) / size, unit);
    return buffer;
  }
  return std::to_string(bytes) + " B";
}

/// Text from files may hold control characters, which a terminal would obey.
std::string printable(std::string text) {
  for (char& character : text)
    if (static_cast<unsigned char>(character) < 0x20 || character == 0x7f) character = '?';
  return text;
}

/// A bar for each value of a column, the longest for the largest.
std::vector<std::string> bars(const Inspection::Table& table) {
  constexpr double kLongest = 40;
  const auto column = static_cast<std::size_t>(std::find(table.columns.begin(), table.columns.end(), table.bars_of) -
                                               table.columns.begin());
  std::vector<std::int64_t> values;
  for (const auto& row : table.rows) values.push_back(std::get<std::int64_t>(row[column]));
  const auto largest = static_cast<double>(std::max<std::int64_t>(1, *std::max_element(values.begin(), values.end())));
  std::vector<std::string> drawn;
  for (const std::int64_t value : values)
    drawn.emplace_back(static_cast<std::size_t>(std::ceil(kLongest * static_cast<double>(value) / largest)), '#');
  return drawn;
}

/// Text columns to the left, numbers to the right.
std::string table_text(const Inspection::Table& table) {
  std::vector<std::vector<std::string>> cells(1);
  for (const std::string& column : table.columns) cells[0].push_back(title_of(column));
  for (const auto& row : table.rows) {
    cells.emplace_back();
    for (std::size_t i = 0; i < row.size(); ++i)
      cells.back().push_back(printable(value_text(table.columns[i], row[i])));
  }
  std::vector<std::size_t> widths(table.columns.size());
  for (const auto& row : cells)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  const std::vector<std::string> drawn = table.bars_of.empty() ? std::vector<std::string>() : bars(table);
  std::string text;
  for (std::size_t r = 0; r < cells.size(); ++r) {
    const auto& row = cells[r];
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const bool is_number = !table.rows.empty() && table.rows[0][i].index() < 2;
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += (i == 0 ? "  " : "   ") + (is_number ? padding + row[i] : row[i] + padding);
    }
    if (r > 0 && !drawn.empty()) line += "   " + drawn[r - 1];
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

/// JSON has no infinity and no NaN: they become null.
Json json_of(const Value& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

}  // namespace

std::string value_text(const std::string& name, const Value& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value))
    return name.ends_with("bytes") ? bytes_text(*integer) : with_separators(*integer);
  if (const auto* real = std::get_if<double>(&value)) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, name.ends_with("share") ? "%.1f %%" : "%.6g",
                  name.ends_with("share") ? 100 * *real : *real);
    return buffer;
  }
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  std::string joined;
  for (const std::string& item : std::get<std::vector<std::string>>(value))
    joined += (joined.empty() ? "" : ", ") + item;
  return joined.empty() ? "none" : joined;
}

std::string title_of(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  if (name.ends_with(" bytes")) name.resize(name.size() - 6);
  return name == "bytes" ? "size" : name;
}

std::string to_text(const Inspection& inspection) {
  std::size_t width = 0;
  for (const auto& [name, value] : inspection.fields) width = std::max(width, title_of(name).size());
  std::string text;
  if (!inspection.kind.empty()) text = inspection.kind + " " + printable(inspection.path.string()) + "\n";
  for (const auto& [name, value] : inspection.fields) {
    const std::string shown = title_of(name);
    text += "  " + shown + std::string(width - shown.size() + 3, ' ') + printable(value_text(name, value)) + "\n";
  }
  for (const Inspection::Table& table : inspection.tables)
    if (!table.rows.empty()) text += "\n" + table_text(table);
  return text;
}

std::string to_json(const Inspection& inspection) {
  Json root = {{"kind", inspection.kind}, {"path", inspection.path.string()}};
  for (const auto& [name, value] : inspection.fields) root[name] = json_of(value);
  for (const Inspection::Table& table : inspection.tables) {
    Json rows = Json::array();
    for (const auto& row : table.rows) {
      Json object = Json::object();
      for (std::size_t i = 0; i < row.size(); ++i) object[table.columns[i]] = json_of(row[i]);
      rows.push_back(std::move(object));
    }
    root[table.name] = std::move(rows);
  }
  return root.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ossature
