#include "model/network/placed_rows.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace ossature {
namespace {

at::Tensor token_tensor(std::span<const std::int32_t> tokens, at::Device device) {
  at::Tensor ids = at::empty({static_cast<std::int64_t>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.data_ptr<std::int64_t>());
  return ids.to(device);
}

}  // namespace

PlacedRows::PlacedRows(const Transformer& transformer, const TokenRows& rows)
    : layout(rows.sample_offsets, transformer.config().sliding_window),
      rope(rope_table(transformer.config(), layout.positions().to(transformer.device()))),
      tokens(token_tensor(rows.tokens, transformer.device())) {}

}  // namespace ossature
