#include "train/run/version.h"

#include <ATen/Version.h>
#include <torch/version.h>

#include "ossature_commit.h"
#include "train/ranks/ranks.h"

namespace ossature {
namespace {

/// Those that some kernel asks for.
std::string processor_features() {
  std::string names;
#if defined(__x86_64__)
  const auto add = [&](const char* name, int has_it) {
    if (has_it != 0) names += std::string(names.empty() ? "" : " ") + name;
  };
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512bw", __builtin_cpu_supports("avx512bw"));
  add("avx512vl", __builtin_cpu_supports("avx512vl"));
  add("avx512dq", __builtin_cpu_supports("avx512dq"));
  add("avx512bf16", __builtin_cpu_supports("avx512bf16"));
#endif
  return names.empty() ? "none that a kernel asks for" : names;
}

}  // namespace

std::string version_text() {
  const std::string transport = transport_of_ranks();
  return "ossature " OSSATURE_VERSION " (commit " OSSATURE_COMMIT ")\nLibTorch " TORCH_VERSION ", its kernels " +
         at::get_cpu_capability() + "\nprocessor " + processor_features() +
         (transport.empty() ? "\nwithout MPI, for one rank" : "\nranks over " + transport);
}

}  // namespace ossature
