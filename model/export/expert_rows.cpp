#include "model/export/expert_rows.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "model/kernels/mxfp4.h"

namespace ossature {
namespace {

constexpr std::int64_t kRowsAtATime = 64;

}  // namespace

at::Tensor decoded_rows(const ExpertWeight& base, std::int64_t e, std::int64_t first, std::int64_t count) {
  if (!base.is_packed()) return base.dense[e].narrow(0, first, count).to(at::kFloat).contiguous();
  const auto width = base.in_features();
  const at::Tensor blocks = base.packed.blocks[e], scales = base.packed.scales[e];
  const at::Tensor half = at::empty({count, width}, at::kBFloat16);
  mxfp4_decode_rows(blocks.const_data_ptr<std::uint8_t>(), scales.const_data_ptr<std::uint8_t>(), first, count,
                    width / kMxfp4BlockSize, static_cast<std::uint16_t*>(half.data_ptr()));
  return half.to(at::kFloat);
}

at::Tensor merged_rows(const ExpertWeight& base, std::int64_t e, const LowRank& delta, std::int64_t first,
                       std::int64_t count) {
  at::Tensor rows = decoded_rows(base, e, first, count);
  // So many at a time whoever asks: the library's product may add in another order for another number of rows.
  for (std::int64_t row = 0; row < count && delta.defined(); row += kRowsAtATime) {
    const auto some = std::min(kRowsAtATime, count - row);
    rows.narrow(0, row, some).addmm_(delta.b.narrow(0, first + row, some), delta.a, 1.0, delta.scale);
  }
  return rows;
}

}  // namespace ossature
