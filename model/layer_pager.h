// Weights of a mapped checkpoint that is larger than memory: the layer that comes next is read ahead by a thread of its
// own while the present one computes, and the pages of a layer that was passed are let go.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "model/checkpoint.h"

namespace ossature {

class LayerPager {
 public:
  explicit LayerPager(const Checkpoint& checkpoint);
  /// Waits for the part of a layer that is being read.
  ~LayerPager();
  LayerPager(const LayerPager&) = delete;
  LayerPager& operator=(const LayerPager&) = delete;

  /// Layer `n` is about to be used, and after it layer `next`; `next` == `n`: none. All other layers are let go, `n` is
  /// waited for, and `next` begins to be read.
  void enter(std::int64_t n, std::int64_t next);

 private:
  enum class State { kUnknown, kWanted, kRead, kReleased };  // unknown: whoever came before may have touched it

  void read_ahead();
  void read(std::size_t layer);

  std::vector<std::vector<std::span<const std::byte>>> layers_;
  std::mutex mutex_;
  std::condition_variable wanted_, read_;
  std::vector<State> states_;
  std::deque<std::size_t> queue_;  // wanted layers in their order
  bool stops_ = false;
  std::thread reader_;  // last: it uses all above
};

}  // namespace ossature
