#include "data/utf8.h"

#include <cstdint>
#include <cstring>

namespace ossature {
namespace {

using Byte = unsigned char;

/// The end of the ASCII that begins at `at`, or a little before it.
const Byte* skip_ascii(const Byte* at, const Byte* end) {
  constexpr std::uint64_t kHighBits = 0x8080808080808080u;
  while (end - at >= 32) {
    std::uint64_t words[4];
    std::memcpy(words, at, sizeof words);
    if (((words[0] | words[1] | words[2] | words[3]) & kHighBits) != 0) break;
    at += 32;
  }
  while (at < end && *at < 0x80) ++at;
  return at;
}

bool continues(Byte byte) {
  return (byte & 0xc0) == 0x80;
}

/// The length of the character of more than one byte that begins at `at`; 0 if it is not valid (table 3-7 of the
/// Unicode standard).
int length_of(const Byte* at, const Byte* end) {
  const Byte first = at[0];
  const auto left = end - at;
  if (first < 0xc2) return 0;  // a continuation, or an overlong form
  if (left < 2) return 0;
  if (first < 0xe0) return continues(at[1]) ? 2 : 0;
  if (first < 0xf0) {
    const Byte low = first == 0xe0 ? 0xa0 : 0x80;   // below: overlong
    const Byte high = first == 0xed ? 0x9f : 0xbf;  // above: surrogates
    return left >= 3 && at[1] >= low && at[1] <= high && continues(at[2]) ? 3 : 0;
  }
  const Byte low = first == 0xf0 ? 0x90 : 0x80;
  const Byte high = first == 0xf4 ? 0x8f : 0xbf;  // above: beyond U+10FFFF
  return first <= 0xf4 && left >= 4 && at[1] >= low && at[1] <= high && continues(at[2]) && continues(at[3]) ? 4 : 0;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view bytes) {
  const auto* const begin = reinterpret_cast<const Byte*>(bytes.data());
  const Byte* const end = begin + bytes.size();
  const Byte* at = begin;
  while (true) {
    at = skip_ascii(at, end);
    // Scripts without ASCII come in long runs.
    while (at < end && *at >= 0x80) {
      const int length = length_of(at, end);
      if (length == 0) return static_cast<std::size_t>(at - begin);
      at += length;
    }
    if (at == end) return bytes.size();
  }
}

}  // namespace ossature
