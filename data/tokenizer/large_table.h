// Memory for tables of megabytes that are read at random places. Internal to data/.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

namespace ossature {

/// Asks the kernel for pages of 2 MB, with which such reads cost about half; without them nothing is different.
template <class T>
struct LargePages {
  using value_type = T;
  static constexpr std::size_t kPage = std::size_t{2} << 20;

  LargePages() = default;
  template <class U>
  LargePages(const LargePages<U>&) {}  // NOLINT: allocators convert
  bool operator==(const LargePages&) const = default;

  T* allocate(std::size_t n) {
    const std::size_t bytes = (n * sizeof(T) + kPage - 1) / kPage * kPage;
    void* memory = n * sizeof(T) < kPage ? std::malloc(n * sizeof(T)) : std::aligned_alloc(kPage, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    if (n * sizeof(T) >= kPage) madvise(memory, bytes, MADV_HUGEPAGE);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
};

template <class T>
using LargeTable = std::vector<T, LargePages<T>>;

}  // namespace ossature
