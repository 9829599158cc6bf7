#include "model/layer_pager.h"

#include <sys/mman.h>

#include <algorithm>
#include <span>

#include "model/mapped_pages.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; older kernels refuse it
#endif

namespace ossature {
namespace {

/// What is asked of the disk at once: enough to keep it busy, little enough that a pager stops soon.
constexpr std::size_t kPiece = 32u << 20;

}  // namespace

LayerPager::LayerPager(const Checkpoint& checkpoint) {
  for (std::int64_t n = 0; n < checkpoint.config().num_hidden_layers; ++n) layers_.push_back(checkpoint.layer_bytes(n));
  states_.resize(layers_.size(), State::kUnknown);
  reader_ = std::thread([this] { read_ahead(); });
}

LayerPager::~LayerPager() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  wanted_.notify_one();
  reader_.join();
}

void LayerPager::enter(std::int64_t n, std::int64_t next) {
  const auto present = static_cast<std::size_t>(n), coming = static_cast<std::size_t>(next);
  std::unique_lock lock(mutex_);
  std::vector<std::size_t> passed;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (i == present || i == coming) {
      if (states_[i] == State::kWanted || states_[i] == State::kRead) continue;
      states_[i] = State::kWanted;
    } else if (states_[i] != State::kReleased) {
      states_[i] = State::kReleased;
      passed.push_back(i);
    }
  }
  // The present one first; what is no longer wanted is dropped, and the reader leaves it where it is.
  queue_.clear();
  for (const std::size_t i : {present, coming}) {
    if (states_[i] == State::kWanted && (queue_.empty() || queue_.back() != i)) queue_.push_back(i);
  }
  wanted_.notify_one();
  lock.unlock();
  for (const std::size_t i : passed) {
    for (const auto bytes : layers_[i]) release_pages(bytes);
  }
  lock.lock();
  read_.wait(lock, [&] { return states_[present] == State::kRead; });
}

void LayerPager::read_ahead() {
  std::unique_lock lock(mutex_);
  while (true) {
    wanted_.wait(lock, [&] { return stops_ || !queue_.empty(); });
    if (stops_) return;
    const std::size_t layer = queue_.front();
    lock.unlock();
    read(layer);
    lock.lock();
    if (states_[layer] == State::kWanted) states_[layer] = State::kRead;
    if (!queue_.empty() && queue_.front() == layer) queue_.pop_front();
    read_.notify_all();
  }
}

void LayerPager::read(std::size_t layer) {
  std::vector<std::span<std::byte>> pieces;
  for (const auto bytes : layers_[layer]) {
    for (auto rest = touched_pages(bytes); !rest.empty(); rest = rest.subspan(std::min(kPiece, rest.size()))) {
      pieces.push_back(rest.first(std::min(kPiece, rest.size())));
    }
  }
  const auto is_called_off = [&] {
    const std::lock_guard lock(mutex_);
    return stops_ || states_[layer] != State::kWanted;
  };
  for (std::size_t i = 0; i < pieces.size() && !is_called_off(); ++i) {
    if (i == 0) madvise(pieces[0].data(), pieces[0].size(), MADV_WILLNEED);
    if (i + 1 < pieces.size()) madvise(pieces[i + 1].data(), pieces[i + 1].size(), MADV_WILLNEED);
    madvise(pieces[i].data(), pieces[i].size(), MADV_POPULATE_READ);
  }
}

}  // namespace ossature
