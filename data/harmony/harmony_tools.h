// What gpt-oss's chat template says about tools: functions as TypeScript-like types, and the two built-in tools.
#pragma once

#include <string>
#include <vector>

namespace ossature {

/// "## functions ... } // namespace functions" for `tools`, the JSON text of an array as OpenAI's API takes it. Throws
/// DataError where the template fails: no description, a default or properties of the wrong kind.
[[nodiscard]] std::string render_tools(const std::string& tools);

/// The sections of the built-in tools "browser" and "python", in this order, each followed by an empty line.
[[nodiscard]] std::string render_builtin_tools(const std::vector<std::string>& names);

}  // namespace ossature
