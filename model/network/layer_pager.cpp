#include "model/network/layer_pager.h"

#include <algorithm>
#include <span>
#include <utility>

namespace ossature {
namespace {

/// Whether layer `n` of `all` is one of `some` that are spread evenly.
bool is_one_of(std::int64_t n, std::int64_t some, std::int64_t all) {
  return (n + 1) * some / all > n * some / all;
}

}  // namespace

LayerPager::LayerPager(const std::vector<Layer>& layers, const Checkpoint& checkpoint, std::int64_t cached_layers) {
  const auto num_layers = static_cast<std::int64_t>(layers.size());
  cached_layers = std::min(cached_layers, num_layers);
  for (std::int64_t n = 0; n < num_layers; ++n) {
    const bool is_cached = is_one_of(n, cached_layers, num_layers);
    entries_.push_back({PagedLayer(layers[static_cast<std::size_t>(n)], checkpoint.layer_parts(n)),
                        is_cached ? ReadWay::kCached : ReadWay::kDirect});
  }
  reader_ = std::thread([this] { read_ahead(); });
}

LayerPager::~LayerPager() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  wanted_.notify_one();
  reader_.join();
  for (Entry& entry : entries_) entry.layer.point_back();
}

void LayerPager::enter(std::int64_t n, std::int64_t next) {
  const auto present = static_cast<std::size_t>(n), coming = static_cast<std::size_t>(next);
  const auto is_due = [&](std::size_t i) { return i == present || i == coming; };
  std::unique_lock lock(mutex_);
  queue_.clear();
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (!is_due(i)) entries_[i].state = State::kLetGo;
  }
  // Its memory is another layer's as soon as the reader has left it.
  read_.wait(lock, [&] { return being_read_ == kNone || is_due(being_read_); });
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    entry.layer.release_mapping();  // whoever used layers without asking has touched its pages
    if (is_due(i)) continue;
    entry.layer.point_back();
    entry.memory = kNone;
  }
  for (const std::size_t i : {present, coming}) {
    Entry& entry = entries_[i];
    if (entry.state == State::kLetGo) {
      entry.memory = free_memory();
      entry.state = State::kWanted;
    }
    const bool is_queued = !queue_.empty() && queue_.back() == i;
    if (entry.state == State::kWanted && being_read_ != i && !is_queued) queue_.push_back(i);
  }
  wanted_.notify_one();
  Entry& entry = entries_[present];
  read_.wait(lock, [&] { return entry.state != State::kWanted; });
  if (entry.state != State::kRead) std::rethrow_exception(std::exchange(error_, nullptr));
  entry.layer.point_to(memories_[entry.memory].bytes());
}

std::size_t LayerPager::free_memory() {
  for (std::size_t i = 0; i < memories_.size(); ++i) {
    if (std::none_of(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.memory == i; })) return i;
  }
  std::size_t size = 0;
  for (const Entry& entry : entries_) size = std::max(size, entry.layer.size());
  memories_.emplace_back(size);
  return memories_.size() - 1;
}

bool LayerPager::is_wanted(std::size_t number) {
  const std::lock_guard lock(mutex_);
  return !stops_ && entries_[number].state == State::kWanted;
}

void LayerPager::read_ahead() {
  std::unique_lock lock(mutex_);
  while (true) {
    wanted_.wait(lock, [&] { return stops_ || !queue_.empty(); });
    if (stops_) return;
    const std::size_t number = being_read_ = queue_.front();
    queue_.pop_front();
    Entry& entry = entries_[number];
    const std::span<std::byte> memory = memories_[entry.memory].bytes();
    lock.unlock();
    bool is_read = false;
    std::exception_ptr error;
    try {
      is_read = entry.layer.read(memory, entry.way, [&] { return !is_wanted(number); });
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error) error_ = error;
    if (entry.state == State::kWanted) entry.state = is_read ? State::kRead : State::kLetGo;
    being_read_ = kNone;
    read_.notify_all();
  }
}

}  // namespace ossature
