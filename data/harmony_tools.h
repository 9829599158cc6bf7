// The tools sections of a harmony conversation: functions as TypeScript types, and the two built-in tools.
#pragma once

#include <string>
#include <vector>

namespace ossature {

/// "## functions ... } // namespace functions" for a JSON array of functions in OpenAI's form. `source` begins every
/// message. Throws DataError where the published template fails (no description, a default that does not fit,
/// properties that are no object).
[[nodiscard]] std::string render_functions(const std::string& tools_json, const std::string& source);

/// The sections of "browser" and "python", in this order whatever the order asked for.
[[nodiscard]] std::string render_builtin_tools(const std::vector<std::string>& names);

}  // namespace ossature
