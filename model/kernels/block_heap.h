// A heap of large blocks in a range of addresses of its own, where no small block ever stands between two that are
// free.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

namespace ossature {

/// Blocks lie at multiples of 64 bytes, each in the first gap that holds it, so what lives longest gathers at the
/// bottom, and gaps join. Pages stay when a block goes, for the next one. Safe to use from several threads.
class BlockHeap {
 public:
  /// Takes `capacity` bytes of addresses, which cost no memory. Where the system has not that many, nothing can be
  /// allocated.
  explicit BlockHeap(std::size_t capacity);
  ~BlockHeap();
  BlockHeap(const BlockHeap&) = delete;
  BlockHeap& operator=(const BlockHeap&) = delete;

  /// `size` bytes, at least 1; nullptr if there is no gap for them.
  [[nodiscard]] void* allocate(std::size_t size);
  /// Of a block of this heap.
  void release(void* block);
  [[nodiscard]] bool owns(const void* block) const;
  /// The pages in gaps go back to the system.
  void return_pages();

 private:
  using Extents = std::map<std::size_t, std::size_t>;  // offset to size

  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::mutex mutex_;
  Extents gaps_, blocks_;
  std::size_t end_ = 0;      // of the last block
  std::size_t touched_ = 0;  // the largest end since pages were returned
};

}  // namespace ossature
