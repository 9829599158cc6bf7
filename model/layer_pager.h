// Weights of a mapped checkpoint that is larger than memory: the layer that comes next is read ahead by a thread of its
// own while the present one computes, and the pages of a layer that was passed are let go.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
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

  /// Layer `n` is about to be used, and after it layer `next`, which begins to be read; `next` == `n` reads none. All
  /// other layers are let go.
  void enter(std::int64_t n, std::int64_t next);

 private:
  void read_ahead();

  std::vector<std::vector<std::span<const std::byte>>> layers_;
  std::vector<bool> held_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<std::int64_t> wanted_;  // by enter, not yet begun
  bool stops_ = false;
  std::thread reader_;  // last: it uses all above
};

}  // namespace ossature
