// The developer message's section on functions, in the TypeScript-like notation of gpt-oss's chat template.
#pragma once

#include <string>

namespace ossature {

/// "## functions ... } // namespace functions" for `tools`, the JSON text of an array as OpenAI's API takes it. Throws
/// DataError if it is not one.
[[nodiscard]] std::string render_tools(const std::string& tools);

}  // namespace ossature
