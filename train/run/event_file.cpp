#include "train/run/event_file.h"

#include <unistd.h>

#include <bit>
#include <chrono>
#include <string>

#include "data/token_file/crc32c.h"

namespace ossature {
namespace {

/// TFRecord stores checksums rotated and offset (tensorflow/core/lib/hash/crc32c.h), so that a checksum of data that
/// holds checksums stays useful.
std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes.data(), bytes.size()), 15) + 0xa282ead8U;
}

template <class Unsigned>
std::string little_endian(Unsigned value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof value; ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xff);
  return bytes;
}

// Protocol buffers: each field is its number and wire type, then its value.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}
std::string integer_field(unsigned number, std::uint64_t value) {
  return varint(number << 3) + varint(value);
}
std::string bytes_field(unsigned number, std::string_view value) {
  return varint(number << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string double_field(unsigned number, double value) {
  return varint(number << 3 | 1) + little_endian(std::bit_cast<std::uint64_t>(value));
}
std::string float_field(unsigned number, float value) {
  return varint(number << 3 | 5) + little_endian(std::bit_cast<std::uint32_t>(value));
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// An Event (wall_time = 1, step = 2) with `payload`, one of file_version = 3, summary = 5, session_log = 7.
std::string record(std::int64_t step, const std::string& payload) {
  const std::string event = double_field(1, unix_time()) + integer_field(2, static_cast<std::uint64_t>(step)) + payload;
  const std::string length = little_endian(static_cast<std::uint64_t>(event.size()));
  return length + little_endian(masked_crc32c(length)) + event + little_endian(masked_crc32c(event));
}

/// TensorBoard reads files that hold "tfevents", in the order of their names, so time comes before what makes names
/// differ.
std::filesystem::path new_file(const std::filesystem::path& dir) {
  std::filesystem::create_directories(dir);
  const std::string stem = "events.out.tfevents." + std::to_string(static_cast<std::int64_t>(unix_time())) +
                           ".ossature." + std::to_string(::getpid()) + ".";
  int number = 0;
  while (std::filesystem::exists(dir / (stem + std::to_string(number)))) ++number;
  return dir / (stem + std::to_string(number));
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& dir, std::int64_t first_step) : file_(new_file(dir)) {
  constexpr std::uint64_t kSessionStart = 1;
  file_.append(record(0, bytes_field(3, "brain.Event:2")) +
               record(first_step, bytes_field(7, integer_field(1, kSessionStart))));
}

void EventFile::scalar(std::string_view tag, std::int64_t step, double value) {
  const std::string point = bytes_field(1, tag) + float_field(2, static_cast<float>(value));
  file_.append(record(step, bytes_field(5, bytes_field(1, point))));
}

void EventFile::text(std::string_view tag, std::int64_t step, std::string_view markdown) {
  constexpr std::uint64_t kDtString = 7;
  const std::string shape = bytes_field(2, integer_field(1, 1));  // TensorShapeProto.dim of size 1
  const std::string tensor = integer_field(1, kDtString) + bytes_field(2, shape) + bytes_field(8, markdown);
  const std::string metadata = bytes_field(1, bytes_field(1, "text"));
  const std::string value = bytes_field(1, tag) + bytes_field(8, tensor) + bytes_field(9, metadata);
  file_.append(record(step, bytes_field(5, bytes_field(1, value))));
}

}  // namespace ossature
