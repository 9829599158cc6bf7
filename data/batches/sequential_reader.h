// All samples of a token file once, in order, for evaluation.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "data/batches/batch.h"
#include "data/token_file/token_file.h"

namespace ossature {

class SequentialReader {
 public:
  /// Batches of whole samples that have up to `max_tokens` tokens (or one longer sample).
  SequentialReader(std::shared_ptr<const TokenFileReader> file, std::int64_t max_tokens);
  /// nullopt at the end.
  [[nodiscard]] std::optional<Batch> next();

 private:
  std::shared_ptr<const TokenFileReader> file_;
  std::int64_t max_tokens_;
  std::int64_t sample_ = 0;
};

}  // namespace ossature
