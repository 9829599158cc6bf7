// What the program says and with which code it exits when something throws.
#pragma once

#include <exception>
#include <string>

namespace ossature {

struct Failure {
  int exit_code;
  std::string message;
};

/// 2 recipe; 3 data or checkpoint, or a path that is not there or not ours to read; 4 non-finite training; 5 disk or
/// memory; 130 interrupted; 1 anything else, which is a bug and is called so.
[[nodiscard]] Failure describe_failure(const std::exception& error);

}  // namespace ossature
