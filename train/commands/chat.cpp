#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <csignal>
#include <iostream>
#include <memory>
#include <system_error>
#include <utility>

#include "data/utf8.h"
#include "train/chat/chat_session.h"
#include "train/chat/model_tokenizer.h"
#include "train/chat/reply_printer.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/reply_options.h"

namespace ossature {
namespace {

struct Options {
  ModelOptions model;
  ReplyOptions reply;
  bool hides_thinking = false;
};

volatile std::sig_atomic_t interrupted = 0;  // a signal handler can reach nothing else
std::array<int, 2> interrupts = {-1, -1};  // a pipe: a byte of each signal, so that none is missed before a wait begins

/// While one lives, SIGINT only sets the flag and ends waiting for a line.
class InterruptFlag {
 public:
  InterruptFlag() {
    if (::pipe2(interrupts.data(), O_NONBLOCK | O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category(), "chat: a pipe cannot be made");
    struct sigaction action = {};
    action.sa_handler = [](int) {
      const int error = errno;
      interrupted = 1;
      [[maybe_unused]] const auto written = ::write(interrupts[1], "", 1);
      errno = error;
    };
    ::sigaction(SIGINT, &action, &before_);
  }
  ~InterruptFlag() {
    ::sigaction(SIGINT, &before_, nullptr);
    for (const int end : interrupts) ::close(end);
  }
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;

  /// Signals until now have had their effect.
  static void reset() {
    char bytes[64];
    while (::read(interrupts[0], bytes, sizeof bytes) > 0) {
    }
    interrupted = 0;
  }

 private:
  struct sigaction before_ = {};
};

/// Lines of standard input. Reads by itself, as streams go on after a signal. Needs an InterruptFlag.
class LineReader {
 public:
  enum Result { kLine, kInterrupted, kEnd };

  Result next(std::string& line) {
    for (;;) {
      const auto end = buffer_.find('\n');
      if (end != std::string::npos || (is_at_end_ && !buffer_.empty())) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end == std::string::npos ? end : end + 1);
        return kLine;
      }
      if (is_at_end_) return kEnd;
      std::array<pollfd, 2> ready{{{STDIN_FILENO, POLLIN, 0}, {interrupts[0], POLLIN, 0}}};
      if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) return kEnd;
      if (ready[1].revents != 0) {
        InterruptFlag::reset();
        buffer_.clear();
        return kInterrupted;
      }
      if (ready[0].revents == 0) continue;
      char bytes[4096];
      const auto size = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (size <= 0) is_at_end_ = true;
      if (size > 0) buffer_.append(bytes, static_cast<std::size_t>(size));
    }
  }

 private:
  std::string buffer_;
  bool is_at_end_ = false;
};

constexpr const char* kHelp =
    "  /reset   begin a new conversation\n"
    "  /quit    leave; so does the end of input (Ctrl-D)\n"
    "  /help    this\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C stops a reply.\n";

void answer(ChatSession& session, const Harmony& harmony, const std::string& text, bool shows_thinking) {
  ReplyPrinter printer(std::cout, harmony.tokenizer(), {shows_thinking, is_terminal(STDOUT_FILENO)});
  InterruptFlag::reset();
  Reply reply;
  try {
    reply = session.ask(text, [&](std::int32_t token) {
      printer.feed(token);
      return interrupted == 0;
    });
  } catch (const DataError& error) {
    std::cerr << "note: " << error.what() << "\n";
    return;
  }
  printer.finish();
  InterruptFlag::reset();
  const std::string finish = reply.finish;
  if (finish == "length") std::cerr << "note: cut after " << reply.tokens.size() << " tokens\n";
  if (finish == "stopped") std::cerr << "note: stopped\n";
  if (finish == "call") std::cerr << "note: the model calls a tool, and chat has none\n";
  if (!session.has_kept_turn()) std::cerr << "note: without an answer, this turn is forgotten\n";
}

void run(const Options& options) {
  Conversation conversation;
  apply_to(options.reply, conversation);
  const Harmony harmony(tokenizer_of(options.model.model), date_of(options.reply.date));
  const LoadedModel model = load_model(options.model);
  check_tokenizer(harmony, model.transformer.config(), options.model.model);
  ChatSession session(model.transformer, harmony,
                      {conversation, options.reply.sampling, options.reply.max_new_tokens, options.reply.seed});
  const bool prompts = is_terminal(STDIN_FILENO);
  if (prompts) std::cerr << "/help explains; Ctrl-C stops a reply, Ctrl-D leaves\n";
  const InterruptFlag flag;
  LineReader reader;
  std::string text;
  for (;;) {
    if (prompts) std::cerr << (text.empty() ? "> " : "... ") << std::flush;
    std::string line;
    const auto result = reader.next(line);
    if (result == LineReader::kEnd) break;
    if (result == LineReader::kInterrupted) {
      text.clear();
      if (prompts) std::cerr << "\n";
      continue;
    }
    if (line.ends_with('\r')) line.pop_back();
    if (line.ends_with('\\')) {
      line.back() = '\n';
      text += line;
      continue;
    }
    text += line;
    const std::string said = std::exchange(text, {});
    if (said == "/quit") break;
    if (said == "/reset") {
      session.reset();
      std::cerr << "note: a new conversation\n";
    } else if (said == "/help") {
      std::cerr << kHelp;
    } else if (said.starts_with('/') && said.find(' ') == std::string::npos) {
      std::cerr << "note: no command " << said << "; /help names them\n";
    } else if (valid_utf8_prefix(said) != said.size()) {
      std::cerr << "note: that is not UTF-8, byte " << valid_utf8_prefix(said) << "; nothing was asked\n";
    } else if (said.find_first_not_of(" \t\n") != std::string::npos) {
      answer(session, harmony, said, !options.hides_thinking);
    }
  }
  if (prompts) std::cerr << "\n";
}

}  // namespace

void register_chat(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  options->reply.max_new_tokens = 2048;
  CLI::App* command = app.add_subcommand("chat", "Talk with a model, turn by turn");
  add_model_options(*command, options->model);
  add_reply_options(*command, options->reply);
  command->add_flag("--hide-thinking", options->hides_thinking, "Leave the analysis channel out");
  add_threads_option(*command);
  command->footer(std::string("While it runs:\n") + kHelp);
  command->callback([options] { run(*options); });
}

}  // namespace ossature
