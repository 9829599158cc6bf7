#include "model/files/gguf.h"

#include <array>

#include "model/files/gguf_header.h"

namespace ossature {
namespace {

constexpr std::array<std::string_view, 13> kTypeNames = {"u8",   "i8",  "u16", "i16", "u32", "i32", "f32",
                                                         "bool", "str", "arr", "u64", "i64", "f64"};

struct TypeSize {
  std::int64_t block;  // elements
  std::int64_t bytes;  // of a block
};

TypeSize size_of(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return {1, 4};
    case GgmlType::kBF16:
      return {1, 2};
    case GgmlType::kMxfp4:
      break;
  }
  return {32, 17};
}

}  // namespace

std::string gguf_type_name(const GgufValue& value) {
  const std::string name(kTypeNames.at(value.index()));
  const auto* array = std::get_if<GgufArray>(&value);
  return array == nullptr ? name : name + "[" + std::string(kTypeNames.at(array->index())) + "]";
}

std::string_view ggml_type_name(GgmlType type) {
  return type == GgmlType::kF32 ? "F32" : type == GgmlType::kBF16 ? "BF16" : "MXFP4";
}

bool byte_count(GgmlType type, const std::vector<std::int64_t>& shape, std::uint64_t& bytes) {
  const auto [block, block_bytes] = size_of(type);
  if (!shape.empty() && shape.back() % block != 0) return false;
  std::int64_t product = block_bytes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::int64_t size = i + 1 == shape.size() ? shape[i] / block : shape[i];
    if (size < 0 || __builtin_mul_overflow(product, size, &product)) return false;
  }
  bytes = static_cast<std::uint64_t>(product);
  return true;
}

std::shared_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& path) {
  constexpr std::size_t kCountBytes = 24;  // magic, version, numbers of tensors and key-values
  std::shared_ptr<GgufFile> file(new GgufFile());
  file->file_ = MappedFile::open(path, "a GGUF file", kCountBytes, "the beginning of a GGUF file");
  GgufHeader header = parse_gguf_header(file->file_->bytes(), path.string());
  file->key_values_ = std::move(header.key_values);
  file->tensors_ = std::move(header.tensors);
  file->data_offset_ = header.data_offset;
  for (std::size_t i = 0; i < file->key_values_.size(); ++i) file->keys_.emplace(file->key_values_[i].first, i);
  for (std::size_t i = 0; i < file->tensors_.size(); ++i) file->names_.emplace(file->tensors_[i].name, i);
  return file;
}

const GgufValue* GgufFile::find_value(std::string_view key) const {
  const auto found = keys_.find(key);
  return found == keys_.end() ? nullptr : &key_values_[found->second].second;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return file_->bytes().subspan(data_offset_ + tensor.begin, tensor.end - tensor.begin);
}

}  // namespace ossature
