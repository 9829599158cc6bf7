// TensorBoard's event file, written without protobuf. A file is a sequence of records (TFRecord: little-endian u64
// length, masked CRC-32C of the length, data, masked CRC-32C of the data), each an Event message
// (tensorflow/core/util/event.proto).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "train/run/append_file.h"

namespace ossature {

class EventFile {
 public:
  /// Creates a new file in `dir`, which is created too. `first_step` > 0 tells TensorBoard to forget what older files
  /// of `dir` say of that step and later. Throws std::system_error when the disk refuses, as all functions here.
  explicit EventFile(const std::filesystem::path& dir, std::int64_t first_step = 0);

  /// A point of the curve `tag`. TensorBoard keeps float32.
  void scalar(std::string_view tag, std::int64_t step, double value);

  /// A Markdown text, shown in the tab "Text".
  void text(std::string_view tag, std::int64_t step, std::string_view markdown);

 private:
  AppendFile file_;
};

}  // namespace ossature
