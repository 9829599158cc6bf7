#include "train/loop/waiting_threads.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>

namespace ossature {

void let_waiting_threads_sleep(char** argv) {
  constexpr std::array<std::string_view, 6> kComputing = {"train", "eval", "generate", "chat", "export", "verify"};
  if (argv[0] == nullptr || argv[1] == nullptr ||
      std::find(kComputing.begin(), kComputing.end(), argv[1]) == kComputing.end())
    return;
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  std::error_code unknown;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", unknown);  // by its name, which ps then shows
  if (unknown || ::setenv("OMP_WAIT_POLICY", "passive", 1) != 0) return;
  ::execv(program.c_str(), argv);
}

}  // namespace ossature
