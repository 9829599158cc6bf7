#include "model/export/write_behind.h"

#include <utility>

namespace ossature {

WriteBehind::WriteBehind(const ByteSink& sink) : sink_(sink), thread_([this] { run(); }) {}

WriteBehind::~WriteBehind() {
  {
    const std::lock_guard lock(mutex_);
    waiting_.clear();
    is_closed_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WriteBehind::put(at::Tensor tensor) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || waiting_.size() < kMaxWaiting; });
  if (error_) std::rethrow_exception(error_);
  waiting_.push_back(std::move(tensor));
  changed_.notify_all();
}

void WriteBehind::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || (waiting_.empty() && !is_busy_); });
  if (error_) std::rethrow_exception(error_);
}

void WriteBehind::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return is_closed_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    {
      const at::Tensor next = std::move(waiting_.front());
      waiting_.pop_front();
      is_busy_ = true;
      lock.unlock();
      changed_.notify_all();
      std::exception_ptr error;
      try {
        write_tensor(next, sink_);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error) error_ = error;
    }
    is_busy_ = false;
    if (error_) waiting_.clear();
    changed_.notify_all();
  }
}

}  // namespace ossature
