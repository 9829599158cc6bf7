// The trained tensors of a run, float32, in two flat buffers (values and gradients), so that the optimizer, the norm
// and a checkpoint deal with one tensor each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ossature {

struct ParameterSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  bool decay = true;  // whether weight decay applies
};

/// Parameters that decay come first in the buffers; within that, the order given.
class ParameterSet {
 public:
  ParameterSet(std::vector<ParameterSpec> specs, at::Device device);

  [[nodiscard]] const std::vector<ParameterSpec>& specs() const { return specs_; }
  /// The leaf of that name; its gradient accumulates into the flat buffer. Throws std::out_of_range if there is none.
  [[nodiscard]] const at::Tensor& tensor(std::string_view name) const;
  /// The same by position in specs().
  [[nodiscard]] const at::Tensor& tensor(std::size_t i) const { return tensors_[i]; }

  /// All values, [numel] float32, and all gradients. Writing here writes the parameters.
  [[nodiscard]] const at::Tensor& values() const { return values_; }
  [[nodiscard]] const at::Tensor& gradients() const { return gradients_; }
  [[nodiscard]] std::int64_t numel() const { return values_.numel(); }
  /// values()[0 .. num_decayed()) take weight decay.
  [[nodiscard]] std::int64_t num_decayed() const { return num_decayed_; }

  /// Euclidean norm of the gradients, summed in float64 over chunks of fixed size: the same for any number of threads.
  [[nodiscard]] double gradient_norm() const;

 private:
  std::vector<ParameterSpec> specs_;
  std::vector<at::Tensor> tensors_;
  at::Tensor values_;
  at::Tensor gradients_;
  std::int64_t num_decayed_ = 0;
};

}  // namespace ossature
