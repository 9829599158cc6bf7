#include "model/layer_pager.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <span>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; older kernels refuse it
#endif

namespace ossature {
namespace {

/// What is asked of the disk at once: enough to keep it busy, little enough that a pager stops soon.
constexpr std::size_t kPiece = 32u << 20;

/// `bytes` as whole pages: those that it touches, or only those that are all its own.
std::span<std::byte> pages(std::span<const std::byte> bytes, bool only_own) {
  static const auto kPage = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  auto first = reinterpret_cast<std::uintptr_t>(bytes.data());
  auto last = first + bytes.size();
  first = (only_own ? first + kPage - 1 : first) / kPage * kPage;
  last = (only_own ? last : last + kPage - 1) / kPage * kPage;
  return {reinterpret_cast<std::byte*>(first), last > first ? last - first : 0};
}

}  // namespace

LayerPager::LayerPager(const Checkpoint& checkpoint) {
  for (std::int64_t n = 0; n < checkpoint.config().num_hidden_layers; ++n) layers_.push_back(checkpoint.layer_bytes(n));
  held_.resize(layers_.size(), true);  // whoever came before may have touched any
  reader_ = std::thread([this] { read_ahead(); });
}

LayerPager::~LayerPager() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  wake_.notify_one();
  reader_.join();
}

void LayerPager::enter(std::int64_t n, std::int64_t next) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!held_[i] || static_cast<std::int64_t>(i) == n || static_cast<std::int64_t>(i) == next) continue;
    for (const auto bytes : layers_[i]) {
      const auto whole = pages(bytes, true);
      // A mapping of a file that nobody writes to: the pages are read again when they are needed.
      if (!whole.empty()) madvise(whole.data(), whole.size(), MADV_DONTNEED);
    }
    held_[i] = false;
  }
  held_[static_cast<std::size_t>(n)] = held_[static_cast<std::size_t>(next)] = true;
  if (next == n) return;
  {
    const std::lock_guard lock(mutex_);
    wanted_ = next;
  }
  wake_.notify_one();
}

void LayerPager::read_ahead() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stops_ || wanted_; });
    if (stops_) return;
    const auto layer = static_cast<std::size_t>(*wanted_);
    wanted_.reset();
    lock.unlock();
    std::vector<std::span<std::byte>> pieces;
    for (const auto bytes : layers_[layer]) {
      for (auto rest = pages(bytes, false); !rest.empty(); rest = rest.subspan(std::min(kPiece, rest.size()))) {
        pieces.push_back(rest.first(std::min(kPiece, rest.size())));
      }
    }
    const auto is_called_off = [&] {
      const std::lock_guard again(mutex_);
      return stops_ || wanted_;
    };
    for (std::size_t i = 0; i < pieces.size() && !is_called_off(); ++i) {
      if (i == 0) madvise(pieces[0].data(), pieces[0].size(), MADV_WILLNEED);
      if (i + 1 < pieces.size()) madvise(pieces[i + 1].data(), pieces[i + 1].size(), MADV_WILLNEED);
      madvise(pieces[i].data(), pieces[i].size(), MADV_POPULATE_READ);
    }
    lock.lock();
  }
}

}  // namespace ossature
