// Memory that a run has freed and keeps for its next step: when it goes back to the system.
//
// What a step frees is kept, since the first touch of a page costs more than most that is done with it. But where
// lengths vary, small things that stay between steps, such as what oneDNN prepares for a shape, fray the C library's
// heap, which then grows though no more is in use.
#pragma once

#include <cstdint>
#include <optional>

namespace ossature {

class FreedMemory {
 public:
  /// `planned`: the most that should be resident.
  explicit FreedMemory(std::int64_t planned) : bound_(planned) {}

  /// Of a step with `resident` bytes at its end: whether what is free should go back. A bound that is passed again
  /// within kFarApart steps is what the steps themselves need, so it rises.
  [[nodiscard]] bool should_go(std::int64_t step, std::int64_t resident);

  static constexpr std::int64_t kFarApart = 4;

 private:
  std::int64_t bound_;
  std::optional<std::int64_t> last_;  // the step after which it went the last time
};

}  // namespace ossature
