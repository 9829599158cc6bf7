// Runs the program that was built, as a user would.
#pragma once

#include <csignal>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace ossature {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal if a signal ended it
  std::string out;     // standard output
  std::string err;     // standard error
};

struct ProgramOptions {
  std::vector<std::string> launcher = {};         // a program and its arguments that is to start ours
  std::string out_file = "";                      // standard output goes there, and `out` stays empty
  std::optional<std::uint64_t> max_file_bytes{};  // no file may grow beyond: what a full disk is to the program
  std::string standard_input = "";                // what it reads there
  std::string interrupt_after = "";               // sends `signal` once standard error has this text
  std::function<bool()> interrupt_when = {};      // sends `signal` once it holds; asked every millisecond
  int signal = SIGINT;
};

/// Runs OSSATURE_PROGRAM, or a launcher that starts it, with `arguments` in the directory of the test. Throws
/// std::system_error if it cannot be started.
[[nodiscard]] ProgramResult run_program(const std::vector<std::string>& arguments, const ProgramOptions& options = {});

}  // namespace ossature
