#include "train/reports/page_tables.h"

#include "train/text/markup.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

using Value = Inspection::Value;

bool is_number(const Value& value) {
  return std::holds_alternative<std::int64_t>(value) || std::holds_alternative<double>(value);
}

/// Characters of a text that would be a column of many short lines on a phone.
constexpr std::size_t kLong = 48;

std::string cell(const std::string& column, const Value& value) {
  const std::string text = value_text(column, value);
  const char* look = is_number(value) ? "number" : text.size() > kLong ? "text long" : "text";
  return std::string("<td class=\"") + look + "\">" + shown(text) + "</td>";
}

}  // namespace

std::string shown(std::string_view text) {
  return escaped_markup(visible_line(text));
}

std::string scrolling(const std::string& label, const std::string& wide) {
  return "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"" + shown(label) + "\">\n" + wide +
         "</div>\n";
}

std::string table_html(const std::string& caption, const Inspection::Table& table) {
  std::string html = "<table>\n<caption>" + shown(caption) + "</caption>\n<thead><tr>";
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    const bool numbers = !table.rows.empty() && is_number(table.rows.front()[c]);
    html += std::string("<th scope=\"col\"") + (numbers ? " class=\"number\"" : "") + ">" +
            shown(title_of(table.columns[c])) + "</th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (std::size_t c = 0; c < row.size(); ++c) html += cell(table.columns[c], row[c]);
    html += "</tr>\n";
  }
  return scrolling(caption, html + "</tbody>\n</table>\n");
}

std::string fields_html(const std::string& caption,
                        const std::vector<std::pair<std::string, Inspection::Value>>& fields) {
  std::string html = "<table>\n<caption>" + shown(caption) + "</caption>\n<tbody>\n";
  for (const auto& [name, value] : fields) {
    html += "<tr><th scope=\"row\">" + shown(title_of(name)) + "</th><td class=\"text\">" +
            shown(value_text(name, value)) + "</td></tr>\n";
  }
  return html + "</tbody>\n</table>\n";
}

}  // namespace ossature
