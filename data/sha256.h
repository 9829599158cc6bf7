// SHA-256 (FIPS 180-4), to tell tokenizers and samples apart.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace ossature {

[[nodiscard]] std::array<std::uint8_t, 32> sha256(std::string_view bytes);
[[nodiscard]] std::string sha256_hex(std::string_view bytes);

}  // namespace ossature
