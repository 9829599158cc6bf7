#include "model/kernels/block_heap.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace ossature {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

BlockHeap::BlockHeap(std::size_t capacity) {
  void* range = ::mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return;
  base_ = static_cast<std::byte*>(range);
  capacity_ = capacity;
}

BlockHeap::~BlockHeap() {
  if (base_ != nullptr) ::munmap(base_, capacity_);
}

void* BlockHeap::allocate(std::size_t size) {
  if (size > capacity_) return nullptr;
  size = (size + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(mutex_);
  std::size_t offset = end_;
  const auto gap = std::find_if(gaps_.begin(), gaps_.end(), [&](const auto& each) { return each.second >= size; });
  if (gap != gaps_.end()) {
    offset = gap->first;
    const std::size_t rest = gap->second - size;
    gaps_.erase(gap);
    if (rest > 0) gaps_.emplace(offset + size, rest);
  } else {
    if (size > capacity_ - end_) return nullptr;
    end_ += size;
    touched_ = std::max(touched_, end_);
  }
  blocks_.emplace(offset, size);
  return base_ + offset;
}

void BlockHeap::release(void* block) {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(static_cast<std::size_t>(static_cast<std::byte*>(block) - base_));
  if (found == blocks_.end()) throw std::logic_error("a block is released that is not in use");
  std::size_t offset = found->first, size = found->second;
  blocks_.erase(found);
  auto next = gaps_.lower_bound(offset);
  if (next != gaps_.end() && next->first == offset + size) {
    size += next->second;
    next = gaps_.erase(next);
  }
  if (next != gaps_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      offset = before->first;
      size += before->second;
      gaps_.erase(before);
    }
  }
  if (offset + size == end_) {
    end_ = offset;
  } else {
    gaps_.emplace(offset, size);
  }
}

bool BlockHeap::owns(const void* block) const {
  const auto* address = static_cast<const std::byte*>(block);
  return base_ != nullptr && address >= base_ && address < base_ + capacity_;
}

void BlockHeap::return_pages() {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto drop = [&](std::size_t begin, std::size_t end) {
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (begin < end) ::madvise(base_ + begin, end - begin, MADV_DONTNEED);
  };
  const std::lock_guard lock(mutex_);
  for (const auto& [offset, size] : gaps_) drop(offset, offset + size);
  drop(end_, touched_ + page);
  touched_ = end_;
}

}  // namespace ossature
