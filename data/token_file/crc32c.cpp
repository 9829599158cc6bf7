#include "data/token_file/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ossature {
namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit)
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);  // the polynomial, reversed
    table[i] = crc;
  }
  return table;
}

std::uint32_t update_plain(std::uint32_t crc, const unsigned char* bytes, std::size_t size) {
  static constexpr auto kTable = make_table();
  for (std::size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ kTable[(crc ^ bytes[i]) & 0xff];
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t update_sse42(std::uint32_t crc, const unsigned char* bytes,
                                                             std::size_t size) {
  std::uint64_t state = crc;
  for (; size >= 8; bytes += 8, size -= 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    state = _mm_crc32_u64(state, word);
  }
  return update_plain(static_cast<std::uint32_t>(state), bytes, size);
}
#endif

}  // namespace

std::uint32_t crc32c(const void* bytes, std::size_t size, std::uint32_t previous) {
  const auto* data = static_cast<const unsigned char*>(bytes);
#if defined(__x86_64__)
  static const bool has_sse42 = __builtin_cpu_supports("sse4.2");
  if (has_sse42) return ~update_sse42(~previous, data, size);
#endif
  return ~update_plain(~previous, data, size);
}

}  // namespace ossature
