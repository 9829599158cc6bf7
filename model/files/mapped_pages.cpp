#include "model/files/mapped_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace ossature {
namespace {

/// Whole pages: those that `bytes` touches, or only those that are all its own.
std::span<std::byte> pages(std::span<const std::byte> bytes, bool only_own) {
  static const auto kPage = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  auto first = reinterpret_cast<std::uintptr_t>(bytes.data());
  auto last = first + bytes.size();
  first = (only_own ? first + kPage - 1 : first) / kPage * kPage;
  last = (only_own ? last : last + kPage - 1) / kPage * kPage;
  return {reinterpret_cast<std::byte*>(first), last > first ? last - first : 0};
}

}  // namespace

std::span<std::byte> touched_pages(std::span<const std::byte> bytes) {
  return pages(bytes, false);
}

void will_need(std::span<const std::byte> bytes) {
  const auto touched = pages(bytes, false);
  if (!touched.empty()) madvise(touched.data(), touched.size(), MADV_WILLNEED);
}

void release_pages(std::span<const std::byte> bytes) {
  const auto own = pages(bytes, true);
  if (!own.empty()) madvise(own.data(), own.size(), MADV_DONTNEED);
}

}  // namespace ossature
