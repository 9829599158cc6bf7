#include "model/kernels/vector_library.h"

#include <ATen/ATen.h>

namespace ossature {

void settle_vector_library() {
  static const bool settled = [] {
    const at::Tensor few = at::ones({64});
    at::exp(few);
    at::log(few);
    at::sin(few);
    at::cos(few);
    return true;
  }();
  static_cast<void>(settled);
}

}  // namespace ossature
