#include "model/kernels/mxfp4_ggml.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "model/kernels/mxfp4.h"

namespace ossature {
namespace {

struct Blocks {
  std::vector<std::uint8_t> blocks, scales;
};

Blocks random_blocks(std::int64_t count) {
  std::mt19937 generator(7);
  Blocks made;
  for (std::int64_t i = 0; i < count * kMxfp4BlockBytes; ++i)
    made.blocks.push_back(static_cast<std::uint8_t>(generator()));
  for (std::int64_t i = 0; i < count; ++i) made.scales.push_back(static_cast<std::uint8_t>(generator()));
  return made;
}

int code(std::uint8_t byte, bool upper) {
  return upper ? byte >> 4 : byte & 15;
}

TEST(Mxfp4Ggml, ValuesLieAsGgmlHasThem) {
  constexpr std::int64_t kCount = 5;
  const Blocks made = random_blocks(kCount);
  std::vector<std::uint8_t> out(kCount * kGgmlMxfp4BlockBytes);
  mxfp4_to_ggml(made.blocks.data(), made.scales.data(), kCount, out.data());
  for (std::int64_t b = 0; b < kCount; ++b) {
    const auto* theirs = out.data() + b * kGgmlMxfp4BlockBytes;
    EXPECT_EQ(theirs[0], made.scales[static_cast<std::size_t>(b)]);
    for (int i = 0; i < kMxfp4BlockSize; ++i) {
      const auto ours = made.blocks[static_cast<std::size_t>(b * kMxfp4BlockBytes + i / 2)];
      EXPECT_EQ(code(theirs[1 + i % 16], i >= 16), code(ours, i % 2 == 1)) << b << " " << i;
    }
  }
}

TEST(Mxfp4Ggml, ThereAndBackChangesNothing) {
  constexpr std::int64_t kCount = 100;
  const Blocks made = random_blocks(kCount);
  std::vector<std::uint8_t> out(kCount * kGgmlMxfp4BlockBytes);
  mxfp4_to_ggml(made.blocks.data(), made.scales.data(), kCount, out.data());
  Blocks back{std::vector<std::uint8_t>(made.blocks.size()), std::vector<std::uint8_t>(made.scales.size())};
  mxfp4_from_ggml(out.data(), kCount, back.blocks.data(), back.scales.data());
  EXPECT_EQ(back.blocks, made.blocks);
  EXPECT_EQ(back.scales, made.scales);
}

}  // namespace
}  // namespace ossature
