#include "model/kernels/processor.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

namespace ossature {
namespace {

Instructions of_processor() {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Instructions::kAvx512Bf16;
  if (avx512) return Instructions::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::kAvx2;
#endif
  return Instructions::kPlain;
}

Instructions of_run() {
  const char* asked = std::getenv("OSSATURE_INSTRUCTIONS");
  auto limit = Instructions::kAvx512Bf16;
  if (asked != nullptr) {
    const std::string_view name = asked;
    if (name == "plain") limit = Instructions::kPlain;
    if (name == "avx2") limit = Instructions::kAvx2;
    if (name == "avx512") limit = Instructions::kAvx512;
  }
  return std::min(limit, of_processor());
}

std::atomic<Instructions>& level() {
  static std::atomic<Instructions> current = of_run();
  return current;
}

}  // namespace

Instructions instructions() {
  return level().load(std::memory_order_relaxed);
}

InstructionsLimit::InstructionsLimit(Instructions limit) : before_(instructions()) {
  level() = std::min(limit, before_);
}
InstructionsLimit::~InstructionsLimit() {
  level() = before_;
}

const char* name_of(Instructions level) {
  switch (level) {
    case Instructions::kPlain:
      return "plain";
    case Instructions::kAvx2:
      return "AVX2";
    case Instructions::kAvx512:
      return "AVX-512";
    case Instructions::kAvx512Bf16:
      return "AVX-512 with bfloat16";
  }
  return "";
}

}  // namespace ossature
