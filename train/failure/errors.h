// What ends a run early. The program maps each to an exit code (train/failure/failure.h).
#pragma once

#include <stdexcept>

namespace ossature {

/// The loss or the gradient norm is not a finite number; nothing was updated with it. Exit code 4.
class NonFiniteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A run needs more memory than it may use; nothing was begun. Exit code 5.
class OutOfMemoryError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user asked to stop (SIGINT, SIGTERM) and the run has been left in a state from which it can resume. Exit code
/// 130.
class InterruptedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What the user has been told already, by this rank or another: the process ends with `exit_code` and says no more.
class RankFailure : public std::runtime_error {
 public:
  explicit RankFailure(int exit_code) : std::runtime_error("a rank failed"), exit_code_(exit_code) {}
  [[nodiscard]] int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

}  // namespace ossature
