// The part of token files that calibrates a rounding.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/batches/batch.h"
#include "data/token_file/token_file.h"

namespace ossature {

/// 64k tokens: of gpt-oss-20b's 32 experts each gets 2.8 for each of its input features on average.
inline constexpr std::int64_t kCalibrationTokens = 65536;
/// Tokens of a micro-batch, and of a sample: what is longer is cut.
inline constexpr std::int64_t kCalibrationBatchTokens = 4096;

/// Samples spread evenly over all of `files`, up to `max_tokens` tokens of them, in the order of the files. The same
/// for equal contents. Throws DataError if the files hold no token.
[[nodiscard]] std::vector<Batch> calibration_batches(const std::vector<std::shared_ptr<const TokenFileReader>>& files,
                                                     std::int64_t max_tokens);

}  // namespace ossature
