// What the model library throws.
#pragma once

#include <stdexcept>

namespace ossature {

/// A checkpoint, adapter or configuration breaks its format. what() says where, what was found, what was expected and
/// what to do. The program maps it to exit code 3.
class CheckpointError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace ossature
