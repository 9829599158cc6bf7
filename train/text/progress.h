// How far a command is, on stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace ossature {

/// Something that grows with the work, to be shown by the second: 3.5e6 "bytes" are "3.5 MB/s".
struct ProgressAmount {
  std::int64_t done = 0;
  std::string unit;  // "bytes", "tokens"
};

/// "[######..................]": 24 places, of which `share` (0 to 1) is done.
[[nodiscard]] std::string progress_bar(double share);

/// "prepare  [#########...............]  38 %  12.4 MB/s  3.1 M tokens/s  0:12 left": the bar, the share and the time
/// left are there if `total` is known (above 0). At most 79 characters for usual names and units.
[[nodiscard]] std::string progress_line(const std::string& what, std::int64_t done, std::int64_t total, double seconds,
                                        const std::vector<ProgressAmount>& amounts, bool has_bar);

/// On a terminal one line that is rewritten a few times a second and is gone at the end; otherwise a line for each
/// tenth that is done, but none in the first two seconds and no more than one in two seconds, so quick work says
/// nothing.
class Progress {
 public:
  explicit Progress(std::string what);
  /// Clears the line, so that an error message stands on its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `total` 0: not known. To be called by one thread at a time, as often as may be.
  void show(std::int64_t done, std::int64_t total, const std::vector<ProgressAmount>& amounts = {});

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool is_terminal_;
  Clock::time_point start_ = Clock::now(), last_ = start_;
  int tenth_ = 0;
  bool has_line_ = false;
};

}  // namespace ossature
