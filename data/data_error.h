// What the data library throws.
#pragma once

#include <stdexcept>

namespace ossature {

/// A text, tokenizer or token file is wrong. what() says where, what was found, what was expected and what to do. Exit
/// code 3.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace ossature
