// The mean of a curve's values so far, the newer ones weighing more.
#pragma once

#include <limits>

namespace ossature {

/// Each value weighs `keep` times as much as the one after it.
class RunningMean {
 public:
  explicit RunningMean(double keep) : keep_(keep) {}
  void add(double value) {
    sum_ = keep_ * sum_ + value;
    weight_ = keep_ * weight_ + 1;
  }
  /// NaN before the first value.
  [[nodiscard]] double value() const { return weight_ > 0 ? sum_ / weight_ : std::numeric_limits<double>::quiet_NaN(); }

 private:
  double keep_, sum_ = 0, weight_ = 0;
};

}  // namespace ossature
