// Anybody's text as the header of a safetensors file: refused, or its tensors cover the data once, and the writer's
// header says the same.
#include "model/files/safetensors_header.h"
#include "tests/fuzz/fixtures.h"
#include "tests/fuzz/json_mutator.h"

namespace ossature::fuzz {
namespace {

/// Of the data section; those of the seeds' tensors.
constexpr std::uint64_t kDataBytes = 4096;

void check_header(const SafetensorsHeader& header) {
  std::uint64_t covered = 0;
  for (const TensorInfo& tensor : header.tensors) {
    std::uint64_t bytes = 0;
    require(byte_count(tensor.dtype, tensor.shape, bytes), "a tensor has more bytes than can be counted");
    require(tensor.begin == covered && tensor.end == covered + bytes, "a tensor overlaps or leaves bytes out");
    covered = tensor.end;
  }
  require(covered == kDataBytes, "bytes belong to no tensor");
}

bool same(const TensorInfo& a, const TensorInfo& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.begin == b.begin && a.end == b.end;
}

}  // namespace
}  // namespace ossature::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ossature;
  try {
    const SafetensorsHeader header = parse_safetensors_header(fuzz::text_of(data, size), 0, fuzz::kDataBytes, "input");
    fuzz::check_header(header);
    const std::string written = safetensors_header_json(header.tensors, header.metadata, "written");
    const SafetensorsHeader again = parse_safetensors_header(written, 0, fuzz::kDataBytes, "again");
    fuzz::require(again.metadata == header.metadata, "the metadata differ once written");
    fuzz::require(std::equal(again.tensors.begin(), again.tensors.end(), header.tensors.begin(), header.tensors.end(),
                             fuzz::same),
                  "the tensors differ once written");
  } catch (const CheckpointError& error) {
    fuzz::check_message(error);
  }
  return 0;
}
