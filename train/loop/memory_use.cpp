#include "train/loop/memory_use.h"

#include <fstream>
#include <limits>
#include <string>

namespace ossature {

MemoryUse read_memory_use() {
  MemoryUse use;
  std::ifstream status("/proc/self/status");
  std::string field;
  while (status >> field) {
    std::int64_t* bytes = field == "VmHWM:"     ? &use.peak_rss_bytes
                          : field == "VmRSS:"   ? &use.rss_bytes
                          : field == "RssAnon:" ? &use.anonymous_bytes
                                                : nullptr;
    if (bytes != nullptr && status >> *bytes) *bytes *= 1024;  // the kernel's "kB" are KiB
    status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return use;
}

}  // namespace ossature
