// The blocks that were decoded last, of all open token files together. Internal to data/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace ossature {

/// Least recently used blocks go when their bytes exceed the capacity. Several threads may use it.
class BlockCache {
 public:
  using Block = std::shared_ptr<const std::vector<std::byte>>;

  explicit BlockCache(std::size_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}
  /// That of the program: 16 MiB, which holds 1 Mi tokens with their weights.
  static BlockCache& shared();

  /// A number that no other user of the cache has.
  [[nodiscard]] std::uint64_t new_owner();
  /// nullptr if it is not here.
  [[nodiscard]] Block find(std::uint64_t owner, std::int64_t block);
  /// A block larger than a quarter of the capacity is not kept.
  void put(std::uint64_t owner, std::int64_t block, Block bytes);
  /// Forgets all blocks of `owner`.
  void forget(std::uint64_t owner);

 private:
  struct Key {
    std::uint64_t owner;
    std::int64_t block;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const {
      return static_cast<std::size_t>(key.owner * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(key.block));
    }
  };
  struct Entry {
    Key key;
    Block bytes;
  };

  std::mutex mutex_;
  std::size_t capacity_bytes_, used_bytes_ = 0;
  std::uint64_t last_owner_ = 0;
  std::list<Entry> newest_first_;
  std::unordered_map<Key, std::list<Entry>::iterator, Hash> places_;
};

}  // namespace ossature
