// Text of anybody's making, as it stands in HTML and SVG.
#pragma once

#include <string>
#include <string_view>

namespace ossature {

/// For the text of an element and for a quoted attribute.
[[nodiscard]] std::string escaped_markup(std::string_view text);

}  // namespace ossature
