#include "model/export/merged_experts.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/merge.h"
#include "model/export/balanced_rounding.h"
#include "model/export/expert_rows.h"
#include "model/export/mxfp4_recode.h"
#include "model/export/neighbour_rounding.h"
#include "model/kernels/transpose.h"

namespace ossature {
namespace {

/// Rows that a thread works on at a time: in float32 they and A fit into a core's cache.
constexpr std::int64_t kRows = 64;

void check(bool is_finite, const std::string& name) {
  if (is_finite) return;
  throw CheckpointError("export: " + name + " merged with the adapter has a value that is not finite; expected " +
                        "finite numbers; the base or the adapter is damaged, or the adapter's weight too large");
}

/// Calls take(first row, rows [count, I] float32 of base + scale B A) from all threads.
template <typename Take>
void for_merged_rows(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const Take& take) {
  const auto out = base.out_features();
  const LowRank delta = expert_pair(pair, e);
  at::parallel_for(0, (out + kRows - 1) / kRows, 1, [&](std::int64_t begin, std::int64_t end) {
    at::NoGradGuard no_grad;
    for (auto chunk = begin; chunk < end; ++chunk) {
      const auto first = chunk * kRows, count = std::min(kRows, out - first);
      take(first, merged_rows(base, e, delta, first, count));
    }
  });
}

using Order = BalancedRounding::Order;

/// The merge in bfloat16, to `result`, [O, I] or by columns [I, O].
void round_merged(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name, Order order,
                  const at::Tensor& upper, const at::Tensor& result) {
  auto* values = static_cast<std::uint16_t*>(result.data_ptr());
  const auto stride = result.size(1), columns = base.in_features();
  const auto place = [&](std::int64_t row) { return values + (order == Order::kRows ? row * stride : row); };
  std::atomic<bool> is_finite = true;
  if (upper.defined()) {
    const auto* chosen = upper.const_data_ptr<std::uint8_t>() + e * base.out_features() * columns / 8;
    for_merged_rows(base, pair, e, [&](std::int64_t first, const at::Tensor& rows) {
      const auto count = rows.size(0);
      std::vector<std::uint16_t> taken(order == Order::kRows ? 0 : static_cast<std::size_t>(rows.numel()));
      std::uint16_t* out = order == Order::kRows ? place(first) : taken.data();
      if (!take_neighbours(rows.const_data_ptr<float>(), chosen + first * columns / 8, count, columns, out))
        is_finite = false;
      if (order == Order::kColumns) transpose(taken.data(), count, columns, columns, place(first), stride);
    });
  } else {
    // Without a pair every value lies on the grid and stays, whatever the direction.
    const BalancedRounding rounding(pair.defined() ? pair.a[e] : at::empty({0, columns}));
    for_merged_rows(base, pair, e, [&](std::int64_t first, const at::Tensor& rows) {
      if (!rounding.round(rows.const_data_ptr<float>(), rows.size(0), order, place(first), stride)) is_finite = false;
    });
  }
  check(is_finite, name);
}

}  // namespace

at::Tensor merged_blocks(const Mxfp4Tensor& base, const LowRank& pair, std::int64_t e, const std::string& name) {
  const at::Tensor before = base.blocks[e].contiguous(), scales = base.scales[e].contiguous();
  at::Tensor result = at::empty_like(before);
  const auto groups = scales.size(1);
  const auto* old = before.const_data_ptr<std::uint8_t>();
  const auto* exponents = scales.const_data_ptr<std::uint8_t>();
  auto* blocks = result.data_ptr<std::uint8_t>();
  std::atomic<bool> is_finite = true;
  for_merged_rows({base, {}}, pair, e, [&](std::int64_t first, const at::Tensor& rows) {
    const auto block = first * groups, count = rows.size(0);
    if (!mxfp4_recode(rows.const_data_ptr<float>(), exponents + block, old + block * kMxfp4BlockBytes, count * groups,
                      blocks + block * kMxfp4BlockBytes))
      is_finite = false;
  });
  check(is_finite, name);
  return result;
}

at::Tensor merged_transposed(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name,
                             const at::Tensor& upper) {
  at::Tensor result = at::empty({base.in_features(), base.out_features()}, at::kBFloat16);
  round_merged(base, pair, e, name, Order::kColumns, upper, result);
  return result;
}

at::Tensor merged_bfloat16(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name,
                           const at::Tensor& upper) {
  at::Tensor result = at::empty({base.out_features(), base.in_features()}, at::kBFloat16);
  round_merged(base, pair, e, name, Order::kRows, upper, result);
  return result;
}

at::Tensor merged_float(const ExpertWeight& base, const LowRank& pair, std::int64_t e, const std::string& name) {
  at::Tensor result = merge_expert(base, pair, e);
  check(result.isfinite().all().item<bool>(), name);
  return result;
}

at::Tensor merged_as(const at::Tensor& base, const LowRank& pair, at::ScalarType dtype, const std::string& name) {
  const at::Tensor merged = merge(base, pair).contiguous();
  if (dtype == at::kFloat) {
    check(merged.isfinite().all().item<bool>(), name);
    return merged;
  }
  const auto out = merged.size(0), columns = merged.size(1);
  at::Tensor result = at::empty({out, columns}, at::kBFloat16);
  const BalancedRounding rounding(pair.a);
  const float* values = merged.const_data_ptr<float>();
  auto* bits = static_cast<std::uint16_t*>(result.data_ptr());
  std::atomic<bool> is_finite = true;
  at::parallel_for(0, (out + kRows - 1) / kRows, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto first = begin * kRows, count = std::min(out, end * kRows) - first;
    if (!rounding.round(values + first * columns, count, Order::kRows, bits + first * columns, columns))
      is_finite = false;
  });
  check(is_finite, name);
  return result;
}

}  // namespace ossature
