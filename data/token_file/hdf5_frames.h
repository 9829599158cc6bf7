// What the child that runs HDF5 (data/token_file/hdf5_process.h) and its parent say to each other: frames of a kind, a
// size and that many bytes. The parent takes nothing for granted: the child may have been taken over by the file that
// it reads. Internal to data/.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ossature::hdf5 {

/// File descriptors of the child.
inline constexpr int kChildFile = 3, kChildSocket = 4;
/// What the child is called: the first of its arguments; the second is the file's name for messages.
inline constexpr const char* kChildName = "ossature: HDF5 reader";

enum class FrameKind : std::uint8_t {
  kError,    // text: what a DataError says
  kInteger,  // an attribute: name, int64
  kText,     // an attribute: name, text
  kColumn,   // a ColumnLayout without its chunks
  kChunks,   // more chunks of the last column: count, addresses, stored sizes, skipped masks
  kDone,     // the layout is complete
  kValues,   // the answer to a request: int64 or double values
  kFailed,   // the answer to a request: HDF5 cannot read them
};

struct FrameHeader {
  FrameKind kind{};
  std::uint32_t size = 0;  // of the payload
};

struct Request {
  std::uint64_t column = 0;  // place in FileLayout::columns
  std::int64_t first = 0, count = 0;
};

inline constexpr std::uint32_t kLargestFrame = 32 << 20;
inline constexpr std::int64_t kMostServed = 65536;  // values a request
inline constexpr std::size_t kChunksOfFrame = 32768;

/// Builds a payload.
class Payload {
 public:
  template <class T>
  Payload& add(T value) {
    return add_bytes(&value, sizeof(T));
  }
  Payload& add_text(std::string_view text) {
    add(static_cast<std::uint32_t>(text.size()));
    return add_bytes(text.data(), text.size());
  }
  template <class T>
  Payload& add_all(const std::vector<T>& values) {
    return add_bytes(values.data(), values.size() * sizeof(T));
  }
  [[nodiscard]] const std::vector<char>& bytes() const { return bytes_; }

 private:
  Payload& add_bytes(const void* bytes, std::size_t size) {
    const auto* begin = static_cast<const char*>(bytes);
    bytes_.insert(bytes_.end(), begin, begin + size);
    return *this;
  }
  std::vector<char> bytes_;
};

/// Takes a payload apart; false when it is too short.
class PayloadReader {
 public:
  explicit PayloadReader(const std::vector<char>& bytes) : bytes_(bytes) {}
  template <class T>
  [[nodiscard]] bool take(T& value) {
    return take_bytes(&value, sizeof(T));
  }
  [[nodiscard]] bool take_text(std::string& text) {
    std::uint32_t size = 0;
    if (!take(size) || size > bytes_.size() - position_) return false;
    text.assign(bytes_.data() + position_, size);
    position_ += size;
    return true;
  }
  /// Appends `count` values.
  template <class T>
  [[nodiscard]] bool take_all(std::vector<T>& values, std::size_t count) {
    if (count > (bytes_.size() - position_) / sizeof(T)) return false;
    const std::size_t before = values.size();
    values.resize(before + count);
    return take_bytes(values.data() + before, count * sizeof(T));
  }

 private:
  [[nodiscard]] bool take_bytes(void* out, std::size_t size) {
    if (size > bytes_.size() - position_) return false;
    if (size > 0) std::memcpy(out, bytes_.data() + position_, size);
    position_ += size;
    return true;
  }
  const std::vector<char>& bytes_;
  std::size_t position_ = 0;
};

}  // namespace ossature::hdf5
