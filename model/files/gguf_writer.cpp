#include "model/files/gguf_writer.h"

#include <array>
#include <stdexcept>
#include <string>

#include "model/files/gguf_header.h"

namespace ossature {

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufKeyValues& key_values,
                       std::vector<GgufTensor> tensors)
    : tensors_(std::move(tensors)) {
  const std::string header = gguf_header_bytes(key_values, tensors_, path.string());
  file_.emplace(path);
  file_->write(std::as_bytes(std::span(header)));
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  skip_complete();
  if (next_ == tensors_.size() || bytes.size() > tensors_[next_].end - std::max(position_, tensors_[next_].begin))
    throw std::logic_error(file_->path().string() + ": more bytes are written than were declared");
  pad_to(tensors_[next_].begin);
  file_->write(bytes);
  position_ += bytes.size();
}

void GgufWriter::skip_complete() {
  while (next_ < tensors_.size() && (tensors_[next_].begin == tensors_[next_].end || position_ >= tensors_[next_].end))
    ++next_;
}

void GgufWriter::pad_to(std::uint64_t position) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  while (position_ < position) {
    const auto size = std::min<std::uint64_t>(position - position_, kZeros.size());
    file_->write(std::span(kZeros).first(size));
    position_ += size;
  }
}

void GgufWriter::finish() {
  skip_complete();
  if (next_ < tensors_.size()) throw std::logic_error(file_->path().string() + ": declared bytes are missing");
  // ggml's own writer pads the last tensor as well.
  pad_to((position_ + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment);
  file_->commit();
}

}  // namespace ossature
