// Weights of a checkpoint that is larger than memory: the layer that comes next is read by threads of the pager's own
// while the present one computes, into memory of the program's, of which there is enough for two layers.
//
// Most layers come past the page cache: that takes least of the processor, and the disk gives most. As many as there is
// memory for that nobody has asked for come through it, and are found there the next time. Those are spread evenly
// among the others, so that the disk always has something to do.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "model/checkpoint/checkpoint.h"
#include "model/network/paged_layer.h"

namespace ossature {

class LayerPager {
 public:
  /// `layers` take their tensors from `checkpoint`; `cached_layers` of them come through the page cache, all if there
  /// are no more.
  LayerPager(const std::vector<Layer>& layers, const Checkpoint& checkpoint, std::int64_t cached_layers);
  /// Waits for the part of a layer that is being read, and leaves all tensors in the mapping.
  ~LayerPager();
  LayerPager(const LayerPager&) = delete;
  LayerPager& operator=(const LayerPager&) = delete;

  /// Layer `n` is about to be used, and after it layer `next`; `next` == `n`: none. All other layers are let go, `n` is
  /// waited for, and `next` begins to be read. Throws CheckpointError if a file cannot be read.
  void enter(std::int64_t n, std::int64_t next);

 private:
  enum class State { kLetGo, kWanted, kRead };
  static constexpr std::size_t kNone = ~std::size_t{0};

  struct Entry {
    PagedLayer layer;
    ReadWay way;
    State state = State::kLetGo;
    std::size_t memory = kNone;  // which of memories_ it has
  };

  void read_ahead();
  [[nodiscard]] bool is_wanted(std::size_t number);
  [[nodiscard]] std::size_t free_memory();

  std::vector<Entry> entries_;
  std::vector<PageMemory> memories_;
  std::mutex mutex_;
  std::condition_variable wanted_, read_;
  std::deque<std::size_t> queue_;  // wanted layers that nobody reads yet, in their order
  std::size_t being_read_ = kNone;
  std::exception_ptr error_;  // why the layer that was read last could not be
  bool stops_ = false;
  std::thread reader_;  // last: it uses all above
};

}  // namespace ossature
