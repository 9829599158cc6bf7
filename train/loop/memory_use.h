// Memory of this process, as the kernel counts it.
#pragma once

#include <cstdint>

namespace ossature {

/// In bytes. Pages of mapped files count as resident once touched, though the kernel can take them back at any time;
/// what the program itself holds is anonymous.
struct MemoryUse {
  std::int64_t peak_rss_bytes = 0;   // VmHWM: the most that was ever resident, mapped files included
  std::int64_t rss_bytes = 0;        // VmRSS
  std::int64_t anonymous_bytes = 0;  // RssAnon
};

/// From /proc/self/status. Zeros where there is none.
[[nodiscard]] MemoryUse read_memory_use();

}  // namespace ossature
