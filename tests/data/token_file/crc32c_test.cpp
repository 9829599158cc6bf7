#include "data/token_file/crc32c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

namespace ossature {
namespace {

/// The definition: bit by bit with the reversed polynomial.
std::uint32_t by_bits(const std::vector<unsigned char>& bytes, std::size_t first) {
  std::uint32_t crc = ~0u;
  for (std::size_t i = first; i < bytes.size(); ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
  }
  return ~crc;
}

TEST(Crc32c, EqualsTheExamplesOfRfc3720) {
  std::vector<unsigned char> bytes(32, 0);
  EXPECT_EQ(crc32c(bytes.data(), 32), 0x8a9136aau);
  std::fill(bytes.begin(), bytes.end(), static_cast<unsigned char>(0xff));
  EXPECT_EQ(crc32c(bytes.data(), 32), 0x62a8ab43u);
  std::iota(bytes.begin(), bytes.end(), static_cast<unsigned char>(0));
  EXPECT_EQ(crc32c(bytes.data(), 32), 0x46dd794eu);
  std::reverse(bytes.begin(), bytes.end());
  EXPECT_EQ(crc32c(bytes.data(), 32), 0x113fdb5cu);
  const std::vector<unsigned char> command = {// an iSCSI read command
                                              0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                                              0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
                                              0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
                                              0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
  EXPECT_EQ(crc32c(command.data(), command.size()), 0xd9963a56u);
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(crc32c("", 0), 0u);
}

TEST(Crc32c, EveryLengthAndAlignmentEqualsTheDefinition) {
  std::vector<unsigned char> bytes;
  for (unsigned i = 0; i < 96; ++i) {
    for (std::size_t first = 0; first <= std::min<std::size_t>(8, bytes.size()); ++first) {
      EXPECT_EQ(crc32c(bytes.data() + first, bytes.size() - first), by_bits(bytes, first)) << i << " " << first;
    }
    bytes.push_back(static_cast<unsigned char>(i * i * 31 + 7));
  }
}

TEST(Crc32c, GoesOnAtAnyCut) {
  const std::string text = "The checksum of a whole is that of its parts, one after the other.";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::uint32_t before = crc32c(text.data(), cut);
    EXPECT_EQ(crc32c(text.data() + cut, text.size() - cut, before), crc32c(text.data(), text.size())) << cut;
  }
}

}  // namespace
}  // namespace ossature
