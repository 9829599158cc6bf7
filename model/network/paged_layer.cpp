#include "model/network/paged_layer.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <thread>
#include <utility>

#include "model/files/mapped_pages.h"

namespace ossature {
namespace {

/// A huge page of x86-64: what the memory is made of where the system has them.
constexpr std::size_t kAlignment = 2u << 20;
/// What is asked of the disk at once, and how many times: disks, and virtual ones more so, give their rate only to
/// several requests at a time.
constexpr std::size_t kPiece = 16u << 20;
constexpr std::size_t kPiecesAtOnce = 3;

/// All tensors of a layer that a file may have.
std::vector<at::Tensor> tensors_of(const Layer& layer) {
  std::vector<at::Tensor> all{layer.input_layernorm, layer.sinks, layer.post_attention_layernorm};
  for (const Linear* linear : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.router}) {
    all.insert(all.end(), {linear->weight, linear->bias});
  }
  for (const ExpertWeight* weight : {&layer.experts.gate_up, &layer.experts.down}) {
    all.insert(all.end(), {weight->packed.blocks, weight->packed.scales, weight->dense});
  }
  all.insert(all.end(), {layer.experts.gate_up_bias, layer.experts.down_bias});
  return all;
}

}  // namespace

PageMemory::PageMemory(std::size_t size) : size_((size + kAlignment - 1) / kAlignment * kAlignment) {
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, size_)));
  if (memory_ == nullptr) throw std::bad_alloc();
  madvise(memory_.get(), size_, MADV_HUGEPAGE);
}

void PageMemory::Free::operator()(std::byte* memory) const {
  std::free(memory);
}

PagedLayer::PagedLayer(const Layer& layer, const std::vector<MappedPart>& parts) {
  std::vector<MappedPart> sorted = parts;
  std::sort(sorted.begin(), sorted.end(),
            [](const MappedPart& a, const MappedPart& b) { return a.bytes.data() < b.bytes.data(); });
  for (const MappedPart& part : sorted) {
    const std::span<const std::byte> touched = touched_pages(part.bytes);
    const auto offset = static_cast<std::uint64_t>(touched.data() - part.file->bytes().data());
    if (!pages_.empty() && pages_.back().file == part.file && offset <= pages_.back().offset + pages_.back().size) {
      pages_.back().size = std::max<std::size_t>(pages_.back().size, offset + touched.size() - pages_.back().offset);
      continue;
    }
    pages_.push_back({part.file, offset, touched.size(), 0});
  }
  for (Pages& each : pages_) {
    each.place = size_;
    size_ += each.size;
  }
  for (const at::Tensor& tensor : tensors_of(layer)) {
    if (!tensor.defined() || !tensor.device().is_cpu()) continue;
    const c10::Storage& storage = tensor.storage();
    const auto* data = static_cast<const std::byte*>(storage.data());
    for (const Pages& each : pages_) {
      const std::byte* begin = each.file->bytes().data() + each.offset;
      const bool is_known = std::any_of(views_.begin(), views_.end(), [&](const View& view) {
        return view.storage.unsafeGetStorageImpl() == storage.unsafeGetStorageImpl();
      });
      if (is_known || data < begin || data >= begin + each.size) continue;
      views_.push_back({storage, each.place + static_cast<std::size_t>(data - begin), {}});
    }
  }
}

bool PagedLayer::read(std::span<std::byte> memory, ReadWay way, const std::function<bool()>& is_called_off) const {
  std::vector<std::pair<const Pages*, std::size_t>> pieces;  // where they begin in their pages
  for (const Pages& each : pages_) {
    for (std::size_t begin = 0; begin < each.size; begin += kPiece) pieces.emplace_back(&each, begin);
  }
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stops{false};
  std::array<std::exception_ptr, kPiecesAtOnce> errors;
  const auto work = [&](std::exception_ptr& error) {
    try {
      for (std::size_t i; !stops && (i = next++) < pieces.size();) {
        const auto& [pages, begin] = pieces[i];
        const auto size = std::min(kPiece, pages->size - begin);
        if (is_called_off()) stops = true;
        if (!stops) pages->file->read(pages->offset + begin, memory.subspan(pages->place + begin, size), way);
      }
    } catch (...) {
      error = std::current_exception();
      stops = true;
    }
  };
  std::vector<std::thread> beside;
  for (std::size_t i = 1; i < kPiecesAtOnce; ++i) beside.emplace_back(work, std::ref(errors[i]));
  work(errors[0]);
  for (std::thread& thread : beside) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return !stops;
}

void PagedLayer::point_to(std::span<std::byte> memory) {
  for (View& view : views_) {
    c10::DataPtr before = view.storage.set_data_ptr({memory.data() + view.place, at::kCPU});
    if (!view.mapped) view.mapped = std::move(before);
  }
}

void PagedLayer::point_back() {
  for (View& view : views_) {
    if (view.mapped) view.storage.set_data_ptr_noswap(std::exchange(view.mapped, {}));
  }
}

void PagedLayer::release_mapping() const {
  for (const Pages& each : pages_)
    release_pages(
        each.file->bytes().subspan(each.offset, std::min(each.size, each.file->bytes().size() - each.offset)));
}

}  // namespace ossature
