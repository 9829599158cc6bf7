#include "tests/cli/run_program.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>
#include <system_error>
#include <utility>

extern char** environ;

namespace ossature {
namespace {

/// A file without a name; the kernel removes it.
class Capture {
 public:
  Capture() : file_(std::tmpfile(), &std::fclose) {
    if (!file_) throw std::system_error(errno, std::generic_category(), "tmpfile");
  }
  [[nodiscard]] int descriptor() const { return ::fileno(file_.get()); }
  void write(const std::string& text) const {
    std::fwrite(text.data(), 1, text.size(), file_.get());
    std::rewind(file_.get());
  }
  [[nodiscard]] std::string read() const {
    std::rewind(file_.get());
    std::string text;
    std::array<char, 4096> buffer{};
    while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), file_.get()))
      text.append(buffer.data(), size);
    return text;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

/// Lowers the limit on file sizes for the programs started while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(const std::optional<std::uint64_t>& bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    if (bytes) limit.rlim_cur = *bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
};

/// What comes through the pipe until its last writer ends. Sends `child` the signal when its condition holds.
std::string read_pipe(int descriptor, pid_t child, const ProgramOptions& options) {
  std::string text;
  std::array<char, 4096> buffer{};
  bool is_waiting = !options.interrupt_after.empty() || options.interrupt_when;
  for (;;) {
    pollfd ready{descriptor, POLLIN, 0};
    const bool has_input = ::poll(&ready, 1, is_waiting && options.interrupt_when ? 1 : -1) > 0;
    if (has_input) {
      const ssize_t size = ::read(descriptor, buffer.data(), buffer.size());
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) return text;
      text.append(buffer.data(), static_cast<std::size_t>(size));
    }
    if (!is_waiting) continue;
    const bool has_said = !options.interrupt_after.empty() && text.find(options.interrupt_after) != std::string::npos;
    if (!has_said && !(options.interrupt_when && options.interrupt_when())) continue;
    is_waiting = false;
    ::kill(child, options.signal);
  }
}

}  // namespace

ProgramResult run_program(const std::vector<std::string>& arguments, const ProgramOptions& options) {
  std::vector<std::string> words = options.launcher;
  words.emplace_back(OSSATURE_PROGRAM);
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  const Capture in, out;
  in.write(options.standard_input);
  std::array<int, 2> err{};
  if (::pipe2(err.data(), O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.descriptor(), STDIN_FILENO);
  if (options.out_file.empty()) {
    posix_spawn_file_actions_adddup2(&actions, out.descriptor(), STDOUT_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, options.out_file.c_str(), O_WRONLY | O_CREAT, 0666);
  }
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  pid_t child = 0;
  const int error = [&] {
    const FileSizeLimit limit(options.max_file_bytes);
    return ::posix_spawnp(&child, argv.front(), &actions, nullptr, argv.data(), environ);
  }();
  posix_spawn_file_actions_destroy(&actions);
  ::close(err[1]);
  if (error != 0) {
    ::close(err[0]);
    throw std::system_error(error, std::generic_category(), argv.front());
  }
  std::string said = read_pipe(err[0], child, options);
  ::close(err[0]);

  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "waitpid");
  }
  return {.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          .out = out.read(),
          .err = std::move(said)};
}

}  // namespace ossature
