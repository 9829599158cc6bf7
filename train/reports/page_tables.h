// Parts of a page: text that cannot act on it, and tables.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/reports/inspection.h"

namespace ossature {

/// Bytes of anybody's making as one line of markup.
[[nodiscard]] std::string shown(std::string_view text);

/// `wide` in a frame of its own that scrolls, where the screen is narrower; the keyboard reaches it.
[[nodiscard]] std::string scrolling(const std::string& label, const std::string& wide);

/// Names of columns and values are shown as an inspection shows them.
[[nodiscard]] std::string table_html(const std::string& caption, const Inspection::Table& table);

/// Names and values below each other.
[[nodiscard]] std::string fields_html(const std::string& caption,
                                      const std::vector<std::pair<std::string, Inspection::Value>>& fields);

}  // namespace ossature
