#include "train/commands/progress.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <utility>

namespace ossature {

Progress::Progress(std::string what) : what_(std::move(what)), is_terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (is_terminal_ && tenth_ >= 0) std::cerr << std::endl;
}

void Progress::show(std::int64_t done, std::int64_t total) {
  const int tenth = static_cast<int>(10 * done / std::max<std::int64_t>(1, total));
  if (tenth == tenth_) return;
  tenth_ = tenth;
  std::cerr << (is_terminal_ ? "\r" : "") << what_ << " " << tenth * 10 << " %" << (is_terminal_ ? "" : "\n")
            << std::flush;
}

}  // namespace ossature
