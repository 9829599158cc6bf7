// The lines of a run's own logs, and what one has under a key, whatever else may have become of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace ossature {

/// visit(line) for each JSON object of `file` that stands on a line of its own, in order; none if there is no file.
template <class Visit>
void for_each_log_line(const std::filesystem::path& file, const Visit& visit) {
  std::ifstream in(file);
  for (std::string bytes; std::getline(in, bytes);) {
    const auto line = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
    if (line.is_object()) visit(line);
  }
}

[[nodiscard]] inline double log_number(const nlohmann::json& line, const char* key, double otherwise = std::nan("")) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : otherwise;
}

/// 0 where there is none.
[[nodiscard]] inline std::int64_t log_count(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}

/// "" where there is none.
[[nodiscard]] inline std::string log_text(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace ossature
