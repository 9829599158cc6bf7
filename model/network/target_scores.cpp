#include "model/network/target_scores.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/network/head.h"

namespace ossature {
namespace {

constexpr std::int64_t kChunkBytes = 256 << 20;  // logits held at once

}  // namespace

TargetScores score_targets(const Transformer& transformer, const TokenRows& rows, bool all) {
  at::NoGradGuard no_grad;
  TargetScores scores{std::vector<float>(rows.tokens.size(), std::numeric_limits<float>::quiet_NaN()),
                      std::vector<std::uint8_t>(rows.tokens.size(), 0)};
  const std::vector<float> ones(all ? rows.tokens.size() : 0, 1.0f);
  const Targets targets = targets_of(rows.tokens, all ? ones : rows.loss_weights, rows.sample_offsets);
  const auto count = targets.rows.size(0);
  if (count == 0) return scores;
  const at::Tensor hidden = forward(transformer, rows), places = targets.rows.to(hidden.device());
  const auto chunk = std::max<std::int64_t>(1, kChunkBytes / (4 * transformer.config().vocab_size));
  for (std::int64_t first = 0; first < count; first += chunk) {
    const auto size = std::min(chunk, count - first);
    const at::Tensor logits = head_logits(transformer, hidden.index_select(0, places.narrow(0, first, size)));
    const at::Tensor ids = targets.targets.narrow(0, first, size).to(hidden.device()).unsqueeze(1);
    const at::Tensor own = logits.gather(1, ids);
    const at::Tensor log_probs = (own - logits.logsumexp(1, true)).squeeze(1).cpu();
    const at::Tensor is_best = (own.squeeze(1) >= std::get<0>(logits.max(1))).cpu();
    for (std::int64_t n = 0; n < size; ++n) {
      const auto t = static_cast<std::size_t>(targets.rows.const_data_ptr<std::int64_t>()[first + n] + 1);
      scores.log_probs[t] = log_probs.const_data_ptr<float>()[n];
      scores.is_best[t] = is_best.const_data_ptr<bool>()[n] ? 1 : 0;
    }
  }
  return scores;
}

}  // namespace ossature
