#include "train/text/progress.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <utility>

#include "train/text/number_text.h"

namespace ossature {
namespace {

/// "12.4 MB/s", "812 tokens/s", "3.1 M tokens/s".
std::string rate_text(const ProgressAmount& amount, double seconds) {
  double rate = static_cast<double>(amount.done) / seconds;
  constexpr std::array<const char*, 4> kPrefixes = {"", "k", "M", "G"};
  std::size_t prefix = 0;
  for (; rate >= 999.5 && prefix + 1 < kPrefixes.size(); ++prefix) rate /= 1000;
  const std::string number = number_text(rate < 10 && prefix > 0 ? "%.1f " : "%.0f ", rate);
  const std::string name = kPrefixes[prefix];
  if (amount.unit == "bytes") return number + name + "B/s";
  return number + name + (name.empty() ? "" : " ") + amount.unit + "/s";
}

}  // namespace

std::string progress_bar(double share) {
  constexpr std::size_t kWidth = 24;
  const auto filled = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * kWidth);
  return "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') + "]";
}

std::string progress_line(const std::string& what, std::int64_t done, std::int64_t total, double seconds,
                          const std::vector<ProgressAmount>& amounts, bool has_bar) {
  std::string line = what;
  const double share = total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0.0;
  if (total > 0) {
    if (has_bar) line += "  " + progress_bar(share);
    line += (has_bar ? "  " : " ") + std::to_string(static_cast<int>(share * 100)) + " %";
  }
  if (seconds > 0) {
    for (const ProgressAmount& amount : amounts) line += "  " + rate_text(amount, seconds);
    if (share > 0 && share < 1) line += "  " + duration_text(seconds * (1 - share) / share) + " left";
  }
  return line;
}

Progress::Progress(std::string what) : what_(std::move(what)), is_terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (has_line_) std::cerr << "\r\x1b[K" << std::flush;
}

void Progress::show(std::int64_t done, std::int64_t total, const std::vector<ProgressAmount>& amounts) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (now - last_ < (is_terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(2000))) return;
  if (is_terminal_) {
    std::cerr << "\r" << progress_line(what_, done, total, seconds, amounts, true) << "\x1b[K" << std::flush;
    has_line_ = true;
  } else {
    const int tenth = total > 0 ? static_cast<int>(10 * done / total) : tenth_ + 1;
    if (tenth <= tenth_) return;
    tenth_ = tenth;
    std::cerr << progress_line(what_, done, total, seconds, amounts, false) << std::endl;
  }
  last_ = now;
}

}  // namespace ossature
