// The program on a terminal of its own, and somebody who types.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <system_error>
#include <vector>

namespace ossature {

class PseudoTerminal {
 public:
  /// Starts OSSATURE_PROGRAM with `arguments` on a terminal of `columns`.
  explicit PseudoTerminal(std::vector<std::string> arguments, unsigned short columns = 80) {
    arguments.insert(arguments.begin(), OSSATURE_PROGRAM);
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    argv.push_back(nullptr);
    winsize size{24, columns, 0, 0};
    child_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
    if (child_ < 0) throw std::system_error(errno, std::generic_category(), "forkpty");
    if (child_ == 0) {
      ::execv(OSSATURE_PROGRAM, argv.data());
      ::_exit(127);
    }
  }
  ~PseudoTerminal() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    ::close(terminal_);
  }
  PseudoTerminal(const PseudoTerminal&) = delete;
  PseudoTerminal& operator=(const PseudoTerminal&) = delete;

  void type(const std::string& keys) const {
    ASSERT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  /// Reads until `text` has come since the last call that found its own; what came up to its end. Fails after a minute.
  std::string until(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (;;) {
      const auto found = unread_.find(text);
      if (found != std::string::npos) {
        const std::string part = unread_.substr(0, found + text.size());
        unread_.erase(0, part.size());
        return part;
      }
      if (!read_more(deadline)) {
        ADD_FAILURE() << "\"" << text << "\" did not come; there was only\n" << unread_;
        return unread_;
      }
    }
  }
  /// What comes until the program ends, and its exit code (128 + signal if one ended it).
  std::string rest(int& exit_code) {
    while (read_more(std::chrono::steady_clock::now() + std::chrono::seconds(60))) {
    }
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = 0;
    exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return std::exchange(unread_, {});
  }

 private:
  bool read_more(std::chrono::steady_clock::time_point deadline) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd ready{terminal_, POLLIN, 0};
    if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) <= 0) return false;
    char bytes[4096];
    const auto size = ::read(terminal_, bytes, sizeof bytes);
    if (size <= 0) return false;  // the program has left its terminal
    unread_.append(bytes, static_cast<std::size_t>(size));
    return true;
  }

  int terminal_ = -1;
  pid_t child_ = 0;
  std::string unread_;
};

}  // namespace ossature
