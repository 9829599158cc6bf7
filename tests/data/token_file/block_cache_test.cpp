#include "data/token_file/block_cache.h"

#include <gtest/gtest.h>

namespace ossature {
namespace {

BlockCache::Block block_of(std::size_t size) {
  return std::make_shared<const std::vector<std::byte>>(size);
}

TEST(BlockCache, ForgetsTheLeastRecentlyUsed) {
  BlockCache cache(400);
  const auto owner = cache.new_owner();
  for (int i = 0; i < 4; ++i) cache.put(owner, i, block_of(100));
  EXPECT_NE(cache.find(owner, 0), nullptr);
  cache.put(owner, 4, block_of(100));
  EXPECT_EQ(cache.find(owner, 1), nullptr);
  for (const int i : {0, 2, 3, 4}) EXPECT_NE(cache.find(owner, i), nullptr) << i;
  cache.put(owner, 2, block_of(7));  // is there already
  EXPECT_EQ(cache.find(owner, 2)->size(), 100u);
}

TEST(BlockCache, KeepsOwnersApart) {
  BlockCache cache(400);
  const auto a = cache.new_owner(), b = cache.new_owner();
  EXPECT_NE(a, b);
  cache.put(a, 0, block_of(10));
  cache.put(b, 0, block_of(20));
  EXPECT_EQ(cache.find(a, 0)->size(), 10u);
  cache.forget(a);
  EXPECT_EQ(cache.find(a, 0), nullptr);
  EXPECT_EQ(cache.find(b, 0)->size(), 20u);
}

TEST(BlockCache, LeavesOutWhatWouldFillIt) {
  BlockCache cache(400);
  const auto owner = cache.new_owner();
  cache.put(owner, 0, block_of(100));
  cache.put(owner, 1, block_of(101));
  EXPECT_NE(cache.find(owner, 0), nullptr);
  EXPECT_EQ(cache.find(owner, 1), nullptr);
}

}  // namespace
}  // namespace ossature
