#include "train/loop/freed_memory.h"

namespace ossature {

bool FreedMemory::should_go(std::int64_t step, std::int64_t resident) {
  if (resident <= bound_) return false;
  if (last_ && step - *last_ < kFarApart) {
    bound_ = resident + resident / 20;
    return false;
  }
  last_ = step;
  return true;
}

}  // namespace ossature
