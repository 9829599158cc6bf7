// Numbers and durations as people read them.
#pragma once

#include <string>

namespace ossature {

/// printf with one number. `format` is a literal whose result has at most 63 characters; the rest would be cut.
[[nodiscard]] std::string number_text(const char* format, double value);

/// "0:07", "12:03", "3:07:42".
[[nodiscard]] std::string duration_text(double seconds);

}  // namespace ossature
