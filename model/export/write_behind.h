// Gives tensors to a sink from a thread of its own, so that the next ones are made while a disk takes these.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include <ATen/core/Tensor.h>

#include "model/checkpoint/checkpoint_writer.h"

namespace ossature {

class WriteBehind {
 public:
  /// `sink` is called by one thread, in the order of put(), until finish() or the destructor returns.
  explicit WriteBehind(const ByteSink& sink);
  /// Drops what has not been given to the sink yet.
  ~WriteBehind();
  WriteBehind(const WriteBehind&) = delete;
  WriteBehind& operator=(const WriteBehind&) = delete;

  /// Waits while kMaxWaiting tensors are waiting. Throws what the sink has thrown.
  void put(at::Tensor tensor);
  /// Returns when the sink has taken everything. Throws what the sink has thrown.
  void finish();

 private:
  static constexpr std::size_t kMaxWaiting = 2;

  void run();

  const ByteSink& sink_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<at::Tensor> waiting_;
  bool is_busy_ = false;  // the thread is in the sink
  bool is_closed_ = false;
  std::exception_ptr error_;
  std::thread thread_;  // last, so that all else is there when it starts
};

}  // namespace ossature
