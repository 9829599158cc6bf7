#include "train/commands/command.h"

#include <CLI/CLI.hpp>

#include <ATen/Parallel.h>

#include "train/commands/numbers.h"

namespace ossature {

void add_threads_option(CLI::App& command) {
  command
      .add_option_function<int>(
          "--threads", [](int threads) { at::set_num_threads(threads); }, "Processor threads; all by default")
      ->check(whole_number_within(1, 4096))
      ->type_name("N");
}

}  // namespace ossature
