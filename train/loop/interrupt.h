// SIGINT and SIGTERM while a run is going: the run finishes its step or leaves its evaluation, saves, and ends with
// InterruptedError.
#pragma once

namespace ossature {

/// While one lives, the first signal only sets a flag; a second one ends the program at once.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  [[nodiscard]] bool is_requested() const;
};

}  // namespace ossature
