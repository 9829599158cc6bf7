// What goes into the experts' weights when a model reads calibration data: activations pass layer by layer through all
// of it, so that one layer's moments are in memory at a time. Shapes: T tokens, H hidden, I intermediate.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/export/input_moments.h"
#include "model/network/backpropagation.h"
#include "model/network/transformer.h"

namespace ossature {

class CalibrationPass {
 public:
  /// `batches` are samples of the data as micro-batches (loss weights are not looked at); they, the transformer (on the
  /// CPU, with its adapter attached) must outlive the pass. Holds 4 H bytes a token.
  CalibrationPass(const Transformer& transformer, std::span<const TokenRows> batches);
  ~CalibrationPass();
  CalibrationPass(const CalibrationPass&) = delete;
  CalibrationPass& operator=(const CalibrationPass&) = delete;

  /// Runs the next layer. `gate_up` and `down`, where they are not null, receive the inputs of those weights (x of H
  /// features, swiglu of I). `after_batch`, when given, is called after each micro-batch, with its tokens.
  void run_layer(MomentSums* gate_up, MomentSums* down, const std::function<void(std::int64_t)>& after_batch = {});

  /// The layer that runs next.
  [[nodiscard]] std::int64_t layer() const { return layer_; }
  [[nodiscard]] std::int64_t num_tokens() const;
  /// Output of the layer before, of each micro-batch, [T, H] float32.
  [[nodiscard]] const at::Tensor& hidden(std::size_t batch) const;

 private:
  struct Batch;
  const Transformer& transformer_;
  std::vector<std::unique_ptr<Batch>> batches_;
  std::int64_t layer_ = 0;
};

}  // namespace ossature
