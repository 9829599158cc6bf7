// Writes a GGUF file (model/files/gguf.h) in the memory of a piece of one tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "model/files/gguf.h"
#include "model/files/partial_file.h"

namespace ossature {

/// All tensors are declared first, then their bytes are given in the declared order, in pieces of any size; the padding
/// between them is the writer's. The file has its name only when finish() has run.
class GgufWriter {
 public:
  /// `tensors` in file order; their begin/end are ignored and computed. Throws CheckpointError on a repeated key or
  /// name, a shape that the format has not got or a file that cannot be created, std::system_error when the disk
  /// refuses.
  GgufWriter(const std::filesystem::path& path, const GgufKeyValues& key_values, std::vector<GgufTensor> tensors);

  /// Appends bytes of the tensor in turn; a piece does not reach into the next one. Throws std::system_error when the
  /// disk refuses and std::logic_error when more bytes come than were declared.
  void write(std::span<const std::byte> bytes);

  /// Flushes to the disk and gives the file its name. Throws std::logic_error if declared bytes are missing and
  /// std::system_error when the disk refuses.
  void finish();

 private:
  void skip_complete();
  void pad_to(std::uint64_t position);

  std::vector<GgufTensor> tensors_;
  std::optional<PartialFile> file_;  // made when all that was declared is right
  std::size_t next_ = 0;             // the first tensor that is not complete
  std::uint64_t position_ = 0;       // in the data section
};

}  // namespace ossature
