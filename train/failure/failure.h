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
/// memory; 130 interrupted; 1 anything else, which is a bug and is called so. A RankFailure keeps its code and has no
/// message.
[[nodiscard]] Failure describe_failure(const std::exception& error);

/// Writes the message to stderr, unless there is none. It may quote files, which may hold what a terminal would obey;
/// that is made visible.
void tell(const Failure& failure);

}  // namespace ossature
