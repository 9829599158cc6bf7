// Which tokens go to which expert, sorted by expert. Shapes: T tokens, K experts a token, E experts, N = T K.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ossature {

/// Assignment n is slot order[n] % K of token order[n] / K.
struct Assignments {
  at::Tensor order;                   // int64 [N]
  at::Tensor tokens;                  // int64 [N]
  std::vector<std::int64_t> offsets;  // [E + 1]: expert e has assignments offsets[e] .. offsets[e + 1]

  [[nodiscard]] std::int64_t num_experts() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  [[nodiscard]] std::int64_t first(std::int64_t e) const { return offsets[static_cast<std::size_t>(e)]; }
  [[nodiscard]] std::int64_t count(std::int64_t e) const { return first(e + 1) - first(e); }
};

/// `indices` int64 [T, K]. Among the assignments of one expert tokens are in order.
[[nodiscard]] Assignments assign(const at::Tensor& indices, std::int64_t num_experts);

}  // namespace ossature
