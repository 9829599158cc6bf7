#include <array>
#include <bit>
#include <set>
#include <stdexcept>

#include "model/files/safetensors.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

/// Sets begin and end of each tensor and returns the bytes of all.
std::uint64_t lay_out(std::vector<TensorInfo>& tensors, const std::string& where) {
  std::set<std::string_view> names;
  std::uint64_t position = 0;
  for (TensorInfo& info : tensors) {
    const std::string tensor = where + ": tensor " + escaped(info.name);
    if (info.name == "__metadata__" || !names.insert(info.name).second)
      throw CheckpointError(tensor + " is given twice or has a reserved name; expected every name once");
    std::uint64_t bytes = 0;
    if (!byte_count(info.dtype, info.shape, bytes) || __builtin_add_overflow(position, bytes, &info.end))
      throw CheckpointError(tensor + " has a negative or too large shape; expected one that fits in a file");
    if (bytes != 0 && position % element_size(info.dtype) != 0)
      throw CheckpointError(tensor + " would begin at byte " + std::to_string(position) +
                            " of the data; expected a multiple of its element size: write larger elements first");
    info.begin = position;
    position = info.end;
  }
  return position;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : remaining_(lay_out(tensors, path.string())) {
  const std::string header = safetensors_header_json(tensors, metadata, path.string());
  if (header.size() > kMaxSafetensorsHeaderBytes)
    throw CheckpointError(path.string() + ": the header would have " + std::to_string(header.size()) +
                          " bytes; expected at most " + std::to_string(kMaxSafetensorsHeaderBytes) +
                          "; write several files");
  file_.emplace(path);
  file_->write(std::bit_cast<std::array<std::byte, sizeof(std::uint64_t)>>(std::uint64_t{header.size()}));
  file_->write(std::as_bytes(std::span(header)));
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  if (bytes.size() > remaining_)
    throw std::logic_error(file_->path().string() + ": " + std::to_string(bytes.size() - remaining_) +
                           " bytes more are written than were declared");
  file_->write(bytes);
  remaining_ -= bytes.size();
}

void SafetensorsWriter::finish() {
  if (remaining_ != 0)
    throw std::logic_error(file_->path().string() + ": " + std::to_string(remaining_) + " declared bytes are missing");
  file_->commit();
}

}  // namespace ossature
