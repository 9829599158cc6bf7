// First and second moments of the inputs of the experts' weights, each token weighted by the square of its routing
// weight: of the squared error of a layer's output that is the share which an expert answers for. Shapes: E experts, I
// input features, N assignments.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/layers/expert_assignments.h"

namespace ossature {

/// Of one expert's inputs x: sum p^2 (x - mean)(x - mean)^T / sum p^2, and the mean likewise.
struct InputMoments {
  at::Tensor covariance;  // float32 [I, I], symmetric
  at::Tensor mean;        // float32 [I]
};

/// Sums over tokens of all experts of a layer. Only half of each symmetric matrix is kept: 2 E I^2 bytes and some.
class MomentSums {
 public:
  MomentSums(std::int64_t num_experts, std::int64_t features);

  /// Adds rows [N, I] sorted by expert (bfloat16 or float32) with the routing weights p of their assignments, float32
  /// [N]. On all threads; no bit depends on their number.
  void add(const at::Tensor& rows, const at::Tensor& p, const Assignments& assigned);

  /// Tokens that expert `e` has had.
  [[nodiscard]] std::int64_t num_tokens(std::int64_t e) const { return counts_[static_cast<std::size_t>(e)]; }

  /// The moments of expert `e`. A covariance from few tokens is drawn towards the mean of all experts' covariances,
  /// which counts as kPooledTokens * I tokens; the mean stays the expert's own, zero where it had no token.
  [[nodiscard]] InputMoments moments(std::int64_t e);

 private:
  struct Packed;
  void add_experts(std::int64_t first_expert, const Packed& packed, const at::Tensor& p);
  [[nodiscard]] InputMoments own(std::int64_t e) const;

  std::int64_t features_, tile_;                              // tile_: rows and columns of a tile
  std::vector<std::pair<std::int64_t, std::int64_t>> tiles_;  // first row and column of those on and above the diagonal
  at::Tensor squares_;                                        // float32 [E, tiles, tile_, tile_]
  at::Tensor sums_;                                           // float64 [E, I]
  std::vector<double> weights_;                               // [E], sum p^2
  std::vector<std::int64_t> counts_;
  at::Tensor pooled_;  // float32 [I, I]
};

/// Weight of the pooled covariance, in tokens for each input feature.
inline constexpr double kPooledTokens = 0.25;

}  // namespace ossature
