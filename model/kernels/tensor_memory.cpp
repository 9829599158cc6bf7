#include "model/kernels/tensor_memory.h"

#include <malloc.h>

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include "model/kernels/block_heap.h"

namespace ossature {
namespace {

constexpr std::size_t kLeast = std::size_t{16} << 10;  // smaller ones do not fray a heap
constexpr std::size_t kMost = std::size_t{1} << 30;    // larger ones are the system's to refuse
constexpr std::size_t kAddresses = std::size_t{1} << 40;

/// Lives until the end of the program: tensors do too.
BlockHeap& heap() {
  static auto* const instance = new BlockHeap(kAddresses);
  return *instance;
}

void release(void* block) {
  if (heap().owns(block)) {
    heap().release(block);
  } else {
    c10::free_cpu(block);
  }
}

class TensorAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    void* block = size >= kLeast && size <= kMost ? heap().allocate(size) : nullptr;
    if (block == nullptr) block = c10::alloc_cpu(size);
    return {block, block, &release, c10::Device(c10::kCPU)};
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }
};

}  // namespace

void use_tensor_heap() {
#ifndef __SANITIZE_ADDRESS__
  static TensorAllocator allocator;
  c10::SetCPUAllocator(&allocator);
#endif
}

void return_freed_memory() {
  malloc_trim(0);
  heap().return_pages();
}

}  // namespace ossature
