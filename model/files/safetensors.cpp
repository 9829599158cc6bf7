#include "model/files/safetensors.h"

#include <cstring>

#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  throw CheckpointError(where + ": " + found + "; expected " + expected);
}

}  // namespace

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  const std::string where = path.string();
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->file_ = MappedFile::open(path, "a safetensors file", kLengthBytes, "the length of the header");
  const std::span<const std::byte> bytes = file->file_->bytes();
  const std::uint64_t file_bytes = bytes.size();

  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxSafetensorsHeaderBytes)
    fail(where, "its header claims " + std::to_string(header_bytes) + " bytes",
         "at most " + std::to_string(kMaxSafetensorsHeaderBytes) + "; is it a safetensors file?");
  if (header_bytes > file_bytes - kLengthBytes)
    fail(where,
         "its header claims " + std::to_string(header_bytes) + " bytes but the file has " + std::to_string(file_bytes),
         "the header inside the file; is it cut short?");
  file->data_offset_ = kLengthBytes + header_bytes;
  const std::string_view json(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes);
  SafetensorsHeader header = parse_safetensors_header(json, file->data_offset_, file_bytes - file->data_offset_, where);
  file->tensors_ = std::move(header.tensors);
  file->metadata_ = std::move(header.metadata);
  for (std::size_t i = 0; i < file->tensors_.size(); ++i) file->index_.emplace(file->tensors_[i].name, i);
  return file;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return file_->bytes().subspan(data_offset_ + tensor.begin, tensor.end - tensor.begin);
}

}  // namespace ossature
