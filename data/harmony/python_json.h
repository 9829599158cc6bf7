// JSON as Python's json.dumps(value, ensure_ascii=False) writes it: chat templates render with it. Internal to data/.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace ossature {

/// ", " and ": " between parts, keys in their order, numbers as repr() shows them.
[[nodiscard]] std::string python_json(const nlohmann::ordered_json& value);

}  // namespace ossature
