// GGUF files (ggml, docs/gguf.md, versions 2 and 3): a header of counts, typed key-values and tensor descriptions, then
// the tensors' bytes, each at a multiple of the alignment. Free of LibTorch, so that it can be fuzzed by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "model/files/mapped_file.h"

namespace ossature {

/// An array of one element type. The index of an alternative is the format's number of its element type; arrays of
/// arrays are in no file.
using GgufArray = std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                               std::vector<float>, std::vector<bool>, std::vector<std::string>, std::monostate,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;
/// A value. The index of an alternative is the format's number of its type.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t,
                               float, bool, std::string, GgufArray, std::uint64_t, std::int64_t, double>;
/// In the order of the file.
using GgufKeyValues = std::vector<std::pair<std::string, GgufValue>>;

/// The format's name of a value's type: "u32", "str", "arr[str]".
[[nodiscard]] std::string gguf_type_name(const GgufValue& value);

/// Element types of tensors (ggml.h, enum ggml_type), those that Ossature reads and writes.
enum class GgmlType : std::uint32_t { kF32 = 0, kBF16 = 30, kMxfp4 = 39 };
[[nodiscard]] std::string_view ggml_type_name(GgmlType type);

inline constexpr std::uint32_t kGgufVersion = 3;
inline constexpr std::uint64_t kGgufAlignment = 32;         // where general.alignment does not say otherwise
inline constexpr std::size_t kGgufMaxTensorNameBytes = 63;  // GGML_MAX_NAME with its terminator is 64
inline constexpr std::size_t kGgufMaxRank = 4;              // GGML_MAX_DIMS
/// Ours: far above any tokenizer's (12 MB in gpt-oss), low enough that a hostile header costs no memory to speak of.
inline constexpr std::uint64_t kMaxGgufHeaderBytes = 100'000'000;

/// One tensor of a file.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<std::int64_t>
      shape;                // slowest dimension first, as everywhere in this program; the file has them reversed
  std::uint64_t begin = 0;  // bytes from the start of the data section
  std::uint64_t end = 0;
};

/// Bytes of a tensor. False when the product does not fit in 63 bits or a row is no whole number of blocks.
[[nodiscard]] bool byte_count(GgmlType type, const std::vector<std::int64_t>& shape, std::uint64_t& bytes);

/// A read-only mapping of one file. The header is checked in full when opened; tensor bytes are touched only by whoever
/// reads them. Safe to share between threads.
class GgufFile {
 public:
  /// Throws CheckpointError if the file is unreadable or truncated, is of another version or byte order, a key or a
  /// tensor is repeated, a type is unknown, a tensor is not where the ones before it end, or bytes belong to no tensor.
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return file_->path(); }
  [[nodiscard]] const std::shared_ptr<const MappedFile>& file() const { return file_; }
  [[nodiscard]] const GgufKeyValues& key_values() const { return key_values_; }
  /// nullptr if absent.
  [[nodiscard]] const GgufValue* find_value(std::string_view key) const;
  /// In the order of their bytes in the file.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// nullptr if absent.
  [[nodiscard]] const GgufTensor* find(std::string_view name) const;
  /// The bytes of a tensor of this file, inside the mapping: valid while this object lives, never to be written.
  [[nodiscard]] std::span<const std::byte> bytes(const GgufTensor& tensor) const;

 private:
  GgufFile() = default;
  std::shared_ptr<const MappedFile> file_;
  GgufKeyValues key_values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> keys_, names_;
  std::uint64_t data_offset_ = 0;
};

}  // namespace ossature
