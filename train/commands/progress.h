// How far a command is, on stderr.
#pragma once

#include <cstdint>
#include <string>

namespace ossature {

/// "export 30 %", in tenths: one line that is rewritten on a terminal, a line each otherwise.
class Progress {
 public:
  explicit Progress(std::string what);
  /// Ends the line, so that an error message stands on its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::int64_t done, std::int64_t total);

 private:
  std::string what_;
  bool is_terminal_;
  int tenth_ = -1;
};

}  // namespace ossature
