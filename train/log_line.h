// What a line of a run's own logs has under a key, whatever else may have become of the line.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace ossature {

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
