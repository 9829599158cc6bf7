// A reply of a model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "data/harmony/harmony.h"
#include "model/network/generate.h"

namespace ossature {

struct Reply {
  std::vector<std::int32_t> tokens;  // with the one that ended it
  const char* finish = "length";     // return | call | length | stopped
};

/// Draws tokens until "<|return|>" or "<|call|>", for at most `max_new_tokens` and no further than the model's context.
/// `decoder` has been fed the prompt, `logits` are those after it; every token but the last is fed too. `hear` gets
/// each token at once; when it returns false, the reply stops.
[[nodiscard]] Reply generate_reply(Decoder& decoder, at::Tensor logits, const ModelConfig& config,
                                   const Harmony& harmony, const SamplingOptions& sampling, std::int64_t max_new_tokens,
                                   std::mt19937_64& generator, const std::function<bool(std::int32_t)>& hear = {});

}  // namespace ossature
