// What is learned, as text.
#pragma once

#include <string_view>

#include "data/data_error.h"
#include "data/harmony/harmony.h"

namespace ossature {

/// "final=1,analysis=0.5,tool_calls=0": factors of analysis, commentary, final, tool_calls, system, developer, user and
/// tool; those that are not named stay as they are by default. Throws DataError for anything else.
[[nodiscard]] LearnOptions learn_options(std::string_view assignments);

}  // namespace ossature
