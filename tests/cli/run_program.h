// Runs the program that was built, as a user would.
#pragma once

#include <string>
#include <vector>

namespace ossature {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal if a signal ended it
  std::string out;     // standard output
  std::string err;     // standard error
};

/// Runs OSSATURE_PROGRAM with `arguments` and an empty standard input, in the directory of the test. Standard output
/// goes to `out_file` if one is named, and `out` stays empty. Throws std::system_error if it cannot be started.
[[nodiscard]] ProgramResult run_program(const std::vector<std::string>& arguments, const std::string& out_file = "");

}  // namespace ossature
