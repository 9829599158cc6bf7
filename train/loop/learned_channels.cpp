#include "train/loop/learned_channels.h"

#include <algorithm>

namespace ossature {

HarmonyTokens harmony_tokens_of(const TokenFileReader& file, const std::filesystem::path& base) {
  std::error_code ignored;
  if (std::filesystem::exists(base / "tokenizer.json", ignored)) {
    const Tokenizer tokenizer = Tokenizer::load(base);
    if (file.tokenizer_sha256().empty() || tokenizer.sha256() == file.tokenizer_sha256())
      return HarmonyTokens::of(tokenizer);
  }
  return HarmonyTokens::o200k(file.vocab_size());
}

void count_learned(const HarmonyTokens& harmony, const TokenRows& rows, std::map<std::string, std::int64_t>& counts) {
  if (!harmony.is_known()) return;
  for (std::size_t s = 0; s + 1 < rows.sample_offsets.size(); ++s) {
    const auto begin = static_cast<std::size_t>(rows.sample_offsets[s]);
    const auto end = static_cast<std::size_t>(rows.sample_offsets[s + 1]);
    const std::span<const float> weights = rows.loss_weights.subspan(begin, end - begin);
    SegmentFinder finder(harmony, rows.tokens.subspan(begin, end - begin));
    for (Segment segment; finder.next(segment);) {
      const std::int64_t first = std::max<std::int64_t>(segment.begin, 1);  // nothing predicts a sample's first token
      std::int64_t learned = 0;
      for (std::int64_t t = first; t < segment.end; ++t) learned += weights[static_cast<std::size_t>(t)] != 0.0f;
      if (learned > 0) counts[std::string(name_of(segment.kind))] += learned;
    }
  }
}

}  // namespace ossature
