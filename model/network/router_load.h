// How many tokens the router of each layer sends to each expert. Shapes: T tokens, K experts a token.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ossature {

/// Counts over as many passes as it is given to.
class RouterLoad {
 public:
  RouterLoad(std::int64_t num_layers, std::int64_t num_experts);

  /// `indices` int64 [T, K]: the experts of the tokens of a pass.
  void add(std::int64_t layer, const at::Tensor& indices);

  /// [layer][expert]; each token counts K times.
  [[nodiscard]] const std::vector<std::vector<std::int64_t>>& tokens() const { return tokens_; }
  [[nodiscard]] std::vector<std::vector<std::int64_t>>& tokens() { return tokens_; }
  /// Of each layer the busiest expert's tokens over the mean of its experts: 1 where all have as many, their number / K
  /// where each token takes the same ones. Rounded to thousandths; 0 of a layer that saw no token.
  [[nodiscard]] std::vector<double> largest_over_mean() const;

 private:
  std::vector<std::vector<std::int64_t>> tokens_;
};

}  // namespace ossature
