#include "data/token_file/block_cache.h"

#include <utility>

namespace ossature {

BlockCache& BlockCache::shared() {
  static BlockCache cache(16 << 20);
  return cache;
}

std::uint64_t BlockCache::new_owner() {
  const std::lock_guard lock(mutex_);
  return ++last_owner_;
}

BlockCache::Block BlockCache::find(std::uint64_t owner, std::int64_t block) {
  const std::lock_guard lock(mutex_);
  const auto place = places_.find({owner, block});
  if (place == places_.end()) return nullptr;
  newest_first_.splice(newest_first_.begin(), newest_first_, place->second);
  return place->second->bytes;
}

void BlockCache::put(std::uint64_t owner, std::int64_t block, Block bytes) {
  if (bytes->size() > capacity_bytes_ / 4) return;
  const std::lock_guard lock(mutex_);
  if (places_.contains({owner, block})) return;
  used_bytes_ += bytes->size();
  newest_first_.push_front({{owner, block}, std::move(bytes)});
  places_[{owner, block}] = newest_first_.begin();
  while (used_bytes_ > capacity_bytes_) {
    used_bytes_ -= newest_first_.back().bytes->size();
    places_.erase(newest_first_.back().key);
    newest_first_.pop_back();
  }
}

void BlockCache::forget(std::uint64_t owner) {
  const std::lock_guard lock(mutex_);
  for (auto entry = newest_first_.begin(); entry != newest_first_.end();) {
    if (entry->key.owner != owner) {
      ++entry;
      continue;
    }
    used_bytes_ -= entry->bytes->size();
    places_.erase(entry->key);
    entry = newest_first_.erase(entry);
  }
}

}  // namespace ossature
