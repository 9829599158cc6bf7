// JSON values as text the way the chat template writes them. Internal to data/.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace ossature {

/// Keeps keys in the order of the file, which the rendered text follows.
using Json = nlohmann::ordered_json;

/// As Python's json.dumps(value, ensure_ascii=False): ", " and ": " between parts, floating-point numbers by their
/// shortest digits.
[[nodiscard]] std::string to_python_json(const Json& value);

/// As Python's str(value) for scalars: text as it is, None, True, False, numbers. Others as to_python_json.
[[nodiscard]] std::string to_python_text(const Json& value);

/// The value of `key`, or nullptr if `object` is no object or lacks it.
[[nodiscard]] const Json* find(const Json& object, const char* key);

/// What Python and the template take as true: not null, false, 0, "" or empty.
[[nodiscard]] bool is_truthy(const Json* value);

}  // namespace ossature
