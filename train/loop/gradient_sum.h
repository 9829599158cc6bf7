// The gradients of all ranks, added up while the backward pass still runs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/network/parameters.h"
#include "train/ranks/ranks.h"

namespace ossature {

/// Sums the flat buffer of gradients layer by layer, the last one first: the order in which a backward pass ends them.
class GradientSum {
 public:
  /// Keeps references to both.
  GradientSum(Ranks& ranks, const ParameterSet& parameters);

  /// The gradients of layer `n` and of those above it will not change any more in this step: their sums begin. A rank
  /// that has nothing to compute in a step need not call this.
  void layer_done(std::int64_t n);
  /// All gradients are sums over the ranks when this returns. Returns the seconds that it took. Collective.
  double finish();

 private:
  /// Parameters that lie side by side.
  struct Piece {
    std::int64_t layer;  // -1: of no layer, or of none that ends before the pass does
    std::int64_t first, count;
  };

  Ranks& ranks_;
  const ParameterSet& parameters_;
  std::vector<Piece> pieces_;  // in the order in which they are summed: the same on every rank
  std::size_t next_ = 0;
};

}  // namespace ossature
