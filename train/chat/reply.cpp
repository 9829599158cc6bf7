#include "train/chat/reply.h"

#include <algorithm>

#include <ATen/core/Tensor.h>

namespace ossature {

Reply generate_reply(Decoder& decoder, at::Tensor logits, const ModelConfig& config, const Harmony& harmony,
                     const SamplingOptions& sampling, std::int64_t max_new_tokens, std::mt19937_64& generator,
                     const std::function<bool(std::int32_t)>& hear) {
  Reply reply;
  const auto most = std::min(max_new_tokens, config.max_position_embeddings - decoder.num_tokens());
  for (std::int64_t n = 0; n < most; ++n) {
    const std::int32_t token = sample_token(logits, sampling, generator);
    reply.tokens.push_back(token);
    const bool goes_on = !hear || hear(token);
    if (token == harmony.return_token()) reply.finish = "return";
    if (token == harmony.call_token()) reply.finish = "call";
    if (token == harmony.return_token() || token == harmony.call_token()) break;
    if (!goes_on) {
      reply.finish = "stopped";
      break;
    }
    if (n + 1 < most) logits = decoder.feed({&token, 1});
  }
  return reply;
}

}  // namespace ossature
