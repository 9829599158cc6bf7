// Samples one after another on a flat token axis, without padding.
#pragma once

#include <cstdint>
#include <vector>

namespace ossature {

struct Batch {
  std::vector<std::int32_t> tokens;          // [T]
  std::vector<float> loss_weights;           // [T], weight of each token as a target; 0: not learned
  std::vector<std::int64_t> sample_offsets;  // [S + 1], first 0, last T
  std::vector<std::int64_t> sample_ids;      // [S], positions in the token file
  std::vector<std::int32_t> sample_files;    // [S], which of the loader's files that is; 0 for the only one
};

}  // namespace ossature
