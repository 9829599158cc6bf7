#include "model/export/write_behind.h"

#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <vector>

#include <ATen/ATen.h>

namespace ossature {
namespace {

TEST(WriteBehind, SinkGetsEverythingInOrder) {
  std::vector<std::uint8_t> taken;
  const ByteSink sink = [&](std::span<const std::byte> bytes) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // slower than they come
    for (const std::byte byte : bytes) taken.push_back(static_cast<std::uint8_t>(byte));
  };
  std::vector<std::uint8_t> given;
  {
    WriteBehind behind(sink);
    for (int i = 0; i < 100; ++i) {
      behind.put(at::full({3}, i, at::kByte));
      given.insert(given.end(), 3, static_cast<std::uint8_t>(i));
    }
    behind.finish();
    EXPECT_EQ(taken, given);
  }
  EXPECT_EQ(taken, given);
}

TEST(WriteBehindFails, AsTheSinkDoes) {
  int calls = 0;
  const ByteSink sink = [&](std::span<const std::byte>) {
    if (++calls == 3) throw std::runtime_error("full");
  };
  WriteBehind behind(sink);
  EXPECT_THROW(
      {
        for (int i = 0; i < 100; ++i) behind.put(at::zeros({1}, at::kByte));
      },
      std::runtime_error);
  EXPECT_THROW(behind.finish(), std::runtime_error);
  EXPECT_THROW(behind.put(at::zeros({1}, at::kByte)), std::runtime_error);
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace ossature
