// JSON from strangers, and how errors describe it. Internal to data/.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "data/data_error.h"

namespace ossature {

using Json = nlohmann::ordered_json;

/// Parses one JSON text. Throws DataError "not JSON at column 7: ..." for what RFC 8259 does not allow, and further for
/// what would be read in more than one way: a key twice in one object, a number beyond a double, an integer beyond 64
/// bits, escaped surrogates without their other half; and for more than 256 arrays and objects within each other.
/// Columns count characters from 1; `line` and `column` are where the text begins.
[[nodiscard]] Json parse_json(std::string_view text, std::int64_t line = 1, std::int64_t column = 1);

/// What a value is, short: `the text "How do I..."`, `7`, `a list of 3`, `an object with the keys role, text`, `null`.
[[nodiscard]] std::string describe(const Json& value);

/// The keys of an object, "role, content"; at most a dozen.
[[nodiscard]] std::string keys_of(const Json& object);

}  // namespace ossature
