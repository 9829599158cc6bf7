// Work on a stream of things by several threads, with results in the order of the stream.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace ossature {

/// Every thread does the same: takes the next thing, works on it, and hands results on if it is their turn. The first
/// failure in the order of the stream is the one that run() throws.
template <class Input, class Output>
class OrderedWork {
 public:
  struct Task {
    Input input;
    std::size_t size = 0;  // by which what is under way is limited
  };

  /// `take` gives the next task, nullopt at the end, and `give` takes results in order; each is called by one thread at
  /// a time. `work` is called by several at once.
  OrderedWork(std::function<std::optional<Task>()> take, std::function<Output(const Input&)> work,
              std::function<void(const Output&)> give)
      : take_(std::move(take)), work_(std::move(work)), give_(std::move(give)) {}

  /// Returns when all results are given. No task is taken while those that are not given yet have together
  /// `max_size_under_way` or more. Throws what the functions throw, once no thread is left.
  void run(int num_threads, std::size_t max_size_under_way) {
    max_size_ = max_size_under_way;
    {
      std::vector<std::jthread> threads;
      for (int i = 1; i < num_threads; ++i) threads.emplace_back([this] { loop(); });
      loop();
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  /// A result, or why there is none.
  struct Result {
    std::optional<Output> output;
    std::exception_ptr failure;
    std::size_t size = 0;
  };

  void loop() {
    while (true) {
      std::size_t number = 0;
      Result result;
      std::optional<Task> task;
      {
        const std::lock_guard taking(take_mutex_);
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [this] { return is_over_ || size_under_way_ < max_size_ || num_taken_ == num_given_; });
          if (is_over_) return;
        }
        try {
          task = take_();
        } catch (...) {
          result.failure = std::current_exception();
        }
        const std::lock_guard lock(mutex_);
        if (!task) is_over_ = true;  // the end, or a failure, behind which nothing can be taken
        if (is_over_ && !result.failure) return;
        number = num_taken_++;
        result.size = task ? task->size : 0;
        size_under_way_ += result.size;
      }
      if (task) {
        try {
          result.output.emplace(work_(task->input));
        } catch (...) {
          result.failure = std::current_exception();
        }
        task.reset();
      }
      hand_in(number, std::move(result));
    }
  }

  void hand_in(std::size_t number, Result result) {
    std::unique_lock lock(mutex_);
    results_.emplace(number, std::move(result));
    if (is_giving_) return;
    is_giving_ = true;
    for (auto next = results_.find(num_given_); next != results_.end() && !failure_; next = results_.find(num_given_)) {
      Result current = std::move(next->second);
      results_.erase(next);
      lock.unlock();
      if (!current.failure) {
        try {
          give_(*current.output);
        } catch (...) {
          current.failure = std::current_exception();
        }
      }
      current.output.reset();
      lock.lock();
      ++num_given_;
      size_under_way_ -= current.size;
      if (current.failure) {
        failure_ = current.failure;
        is_over_ = true;
      }
      changed_.notify_all();
    }
    is_giving_ = false;
  }

  std::function<std::optional<Task>()> take_;
  std::function<Output(const Input&)> work_;
  std::function<void(const Output&)> give_;
  std::size_t max_size_ = 0;

  std::mutex take_mutex_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::map<std::size_t, Result> results_;  // not given yet, by number
  std::size_t num_taken_ = 0, num_given_ = 0, size_under_way_ = 0;
  bool is_giving_ = false;
  bool is_over_ = false;  // nothing more is to be taken
  std::exception_ptr failure_;
};

}  // namespace ossature
