// Which program on which machine worked on a run, and when: run_dir/sessions.jsonl, a line each time that the run began
// or went on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ossature {

struct RunSession {
  std::int64_t first_step = 1;    // that it was to do
  std::string started;            // UTC, "2026-01-31T12:00:00Z"
  std::string version;            // what --version says, a line each
  std::string processor;          // the processor's own name; "" if unknown
  std::int64_t processors = 0;    // that the process may use
  std::int64_t threads = 0;       // of LibTorch
  std::int64_t memory_bytes = 0;  // of the machine
};

/// One that starts now, here.
[[nodiscard]] RunSession this_session(std::int64_t first_step);

/// Throws std::system_error when the disk refuses.
void append_session(const std::filesystem::path& run_dir, const RunSession& session);

/// In the order of the file; what is no whole line is passed over. Empty if there is no file.
[[nodiscard]] std::vector<RunSession> read_sessions(const std::filesystem::path& run_dir);

}  // namespace ossature
