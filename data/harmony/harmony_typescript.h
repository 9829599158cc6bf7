// What openai-harmony says about tools: namespaces of functions whose JSON schemas become TypeScript-like types.
// Internal to data/.
#pragma once

#include <string>

#include "data/harmony/conversation.h"

namespace ossature {

/// "## NAME ... } // namespace NAME" (openai-harmony 0.0.8, src/encoding.rs, template_tools_section). Throws DataError
/// if a schema is nested too deeply.
[[nodiscard]] std::string namespace_text(const ToolNamespace& tools);

/// "# Tools" and all namespaces in the order of their keys.
[[nodiscard]] std::string tools_section(const ToolNamespaces& tools);

/// The two tools that the model was trained with, word for word.
[[nodiscard]] const ToolNamespace& browser_tool();
[[nodiscard]] const ToolNamespace& python_tool();

}  // namespace ossature
