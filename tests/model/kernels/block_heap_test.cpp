// A heap of large blocks: apart, aligned, in no more room than they need, and given back when asked.
#include "model/kernels/block_heap.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace ossature {
namespace {

constexpr std::size_t kCapacity = std::size_t{64} << 20;

/// Of `size` bytes from `begin` on, those whose pages are in memory.
std::size_t resident_bytes(std::byte* begin, std::size_t size) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((size + page - 1) / page);
  EXPECT_EQ(::mincore(begin, size, pages.data()), 0);
  std::size_t resident = 0;
  for (const unsigned char each : pages) resident += (each & 1) * page;
  return resident;
}

TEST(BlockHeap, BlocksKeepTheirBytes) {
  struct Block {
    std::byte* data;
    std::size_t size;
    int value;
  };
  BlockHeap heap(kCapacity);
  std::mt19937 random(1);
  std::vector<Block> blocks;
  const auto expect_whole = [](const Block& block) {
    for (std::size_t i = 0; i < block.size; ++i) ASSERT_EQ(block.data[i], static_cast<std::byte>(block.value));
  };
  for (int i = 0; i < 3000; ++i) {
    if (blocks.size() > 20 || (!blocks.empty() && random() % 3 == 0)) {
      const std::size_t chosen = random() % blocks.size();
      expect_whole(blocks[chosen]);
      heap.release(blocks[chosen].data);
      blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(chosen));
      continue;
    }
    const std::size_t size = 1 + random() % 40'000;
    auto* data = static_cast<std::byte*>(heap.allocate(size));
    ASSERT_NE(data, nullptr);
    ASSERT_TRUE(heap.owns(data));
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(data) % 64, 0U);
    std::memset(data, i & 0xff, size);
    blocks.push_back({data, size, i & 0xff});
  }
  for (const Block& block : blocks) expect_whole(block);
}

TEST(BlockHeap, GapsJoinWhateverTheOrder) {
  const std::vector<std::vector<std::size_t>> orders = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}};
  for (const auto& order : orders) {
    BlockHeap heap(4096);
    std::vector<void*> blocks;
    for (int i = 0; i < 4; ++i) blocks.push_back(heap.allocate(1000));
    EXPECT_EQ(heap.allocate(1000), nullptr);
    for (const std::size_t i : order) heap.release(blocks[i]);
    void* whole = heap.allocate(4096);
    EXPECT_EQ(whole, blocks[0]);
    heap.release(whole);
  }
}

TEST(BlockHeap, TakesTheFirstGapThatHoldsABlock) {
  BlockHeap heap(kCapacity);
  void* const a = heap.allocate(640);
  void* const b = heap.allocate(64);
  void* const c = heap.allocate(6400);
  void* const d = heap.allocate(64);
  heap.release(a);
  heap.release(c);
  EXPECT_EQ(heap.allocate(6400), c);
  EXPECT_EQ(heap.allocate(600), a);
  EXPECT_GT(heap.allocate(6400), d);
  (void)b;
}

TEST(BlockHeap, ReturnsThePagesOfGapsAlone) {
  BlockHeap heap(kCapacity);
  constexpr std::size_t kSize = std::size_t{4} << 20;
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 4; ++i) {
    blocks.push_back(static_cast<std::byte*>(heap.allocate(kSize)));
    std::memset(blocks.back(), i + 1, kSize);
  }
  heap.release(blocks[1]);
  heap.release(blocks[3]);
  EXPECT_EQ(resident_bytes(blocks[0], 4 * kSize), 4 * kSize) << "kept for the next block";
  heap.return_pages();
  EXPECT_EQ(resident_bytes(blocks[0], 4 * kSize), 2 * kSize);
  EXPECT_EQ(blocks[2][kSize - 1], std::byte{3});
  EXPECT_EQ(heap.allocate(kSize), blocks[1]);
}

TEST(BlockHeap, RefusesWhatItHasNoRoomFor) {
  BlockHeap none(~std::size_t{0} >> 1);  // more addresses than there are
  EXPECT_EQ(none.allocate(1), nullptr);
  EXPECT_FALSE(none.owns(&none));
  BlockHeap heap(4096);
  EXPECT_EQ(heap.allocate(4097), nullptr);
  EXPECT_EQ(heap.allocate(~std::size_t{0}), nullptr);
  void* const block = heap.allocate(4096);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(heap.allocate(1), nullptr);
  EXPECT_FALSE(heap.owns(static_cast<std::byte*>(block) + 4096));
}

}  // namespace
}  // namespace ossature
