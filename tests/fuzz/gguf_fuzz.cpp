// Anybody's bytes as a GGUF file: refused, or its header is understood, and written again as it was.
#include "model/checkpoint/gguf_config.h"
#include "model/files/gguf_header.h"
#include "tests/fuzz/fixtures.h"

namespace ossature::fuzz {
namespace {

/// What every reader of a file relies on.
void check_header(const GgufHeader& header, std::size_t size) {
  require(header.data_offset <= size, "the data begin behind the file");
  std::uint64_t covered = 0;
  for (const GgufTensor& tensor : header.tensors) {
    std::uint64_t bytes = 0;
    require(byte_count(tensor.type, tensor.shape, bytes), "a tensor has a shape that its type does not have");
    require(tensor.begin >= covered && tensor.end == tensor.begin + bytes, "a tensor overlaps or has another size");
    require(tensor.end <= size - header.data_offset, "a tensor ends behind the file");
    covered = tensor.end;
  }
}

/// The writer gives what was read, but for the version and the padding.
void check_written(const GgufHeader& header, std::string_view file) {
  constexpr std::size_t kVersionAt = 4, kCountsAt = 8;
  std::vector<GgufTensor> tensors = header.tensors;
  const std::string written = gguf_header_bytes(header.key_values, tensors, "written");
  require(written.size() == header.data_offset, "the data begin elsewhere once written");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    require(tensors[i].begin == header.tensors[i].begin && tensors[i].end == header.tensors[i].end,
            "a tensor is written to another place");
  }
  const std::size_t end = written.find_last_not_of('\0') + 1;  // there are tensors, so behind the counts
  require(written.substr(0, kVersionAt) == file.substr(0, kVersionAt) &&
              written.substr(kCountsAt, end - kCountsAt) == file.substr(kCountsAt, end - kCountsAt),
          "the header differs once written");
}

}  // namespace
}  // namespace ossature::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  static const fuzz::InputFile input(".gguf");
  const std::string_view file = fuzz::text_of(data, size);
  try {
    const GgufHeader header = parse_gguf_header(std::as_bytes(std::span(file)), "input");
    fuzz::check_header(header, size);
    if (!header.tensors.empty()) fuzz::check_written(header, file);
    (void)read_gguf_config(*GgufFile::open(input.write(file)));
  } catch (const CheckpointError& error) {
    fuzz::check_message(error);
  }
  return 0;
}
