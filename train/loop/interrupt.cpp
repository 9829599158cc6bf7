#include "train/loop/interrupt.h"

#include <csignal>

namespace ossature {
namespace {

volatile std::sig_atomic_t requested = 0;  // a signal handler can reach nothing else

void on_signal(int signal) {
  requested = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  requested = 0;
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::is_requested() const {
  return requested != 0;
}

}  // namespace ossature
