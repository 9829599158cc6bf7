// SHA-256 (FIPS 180-4), to tell whether two tokenizer files are the same.
#pragma once

#include <string>
#include <string_view>

namespace ossature {

/// 64 hexadecimal digits.
[[nodiscard]] std::string sha256_hex(std::string_view bytes);

}  // namespace ossature
