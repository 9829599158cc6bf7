#include "train/evaluation/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/batches/sequential_reader.h"
#include "model/network/target_scores.h"
#include "train/evaluation/evaluate.h"

namespace ossature {
namespace {

/// "chats.jsonl" of "chats.jsonl:12"; nullopt of what names no file.
std::optional<std::string> file_of(const std::string& source) {
  const auto colon = source.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == source.size()) return std::nullopt;
  if (source.find_first_not_of("0123456789", colon + 1) != std::string::npos) return std::nullopt;
  return source.substr(0, colon);
}

/// Of each token of a sample, what kind of segment it is in.
std::vector<SegmentKind> kinds_of(const HarmonyTokens& harmony, std::span<const std::int32_t> tokens) {
  std::vector<SegmentKind> kinds(tokens.size(), SegmentKind::kText);
  SegmentFinder finder(harmony, tokens);
  for (Segment segment; finder.next(segment);) {
    std::fill(kinds.begin() + segment.begin, kinds.begin() + segment.end, segment.kind);
  }
  return kinds;
}

void add(Group& group, std::size_t sample, float log_prob, float weight, bool is_best) {
  if (group.loss.size() <= sample) {
    group.loss.resize(sample + 1);
    group.accuracy.resize(sample + 1);
  }
  ++group.num_learned;
  group.loss[sample].numerator -= static_cast<double>(log_prob) * weight;
  group.loss[sample].denominator += weight;
  group.accuracy[sample].numerator += is_best ? 1.0 : 0.0;
  group.accuracy[sample].denominator += 1.0;
}

}  // namespace

Ratio jackknife(const std::vector<RatioTerm>& terms) {
  RatioTerm sum;
  double count = 0.0;
  for (const RatioTerm& term : terms) {
    if (term.denominator <= 0.0) continue;
    sum.numerator += term.numerator;
    sum.denominator += term.denominator;
    ++count;
  }
  if (count == 0.0) return {std::numeric_limits<double>::quiet_NaN(), std::nullopt};
  Ratio estimate{sum.numerator / sum.denominator, std::nullopt};
  if (count < 2.0) return estimate;
  double mean = 0.0, squares = 0.0;
  const auto without = [&](const RatioTerm& term) {
    return (sum.numerator - term.numerator) / (sum.denominator - term.denominator);
  };
  for (const RatioTerm& term : terms) {
    if (term.denominator > 0.0) mean += without(term) / count;
  }
  for (const RatioTerm& term : terms) {
    if (term.denominator > 0.0) squares += std::pow(without(term) - mean, 2);
  }
  estimate.margin = 1.96 * std::sqrt((count - 1.0) / count * squares);
  return estimate;
}

std::vector<RatioTerm> difference(const std::vector<RatioTerm>& base, const std::vector<RatioTerm>& other) {
  std::vector<RatioTerm> terms = other;
  for (std::size_t s = 0; s < terms.size() && s < base.size(); ++s) terms[s].numerator -= base[s].numerator;
  return terms;
}

Evaluation evaluate_groups(const Transformer& transformer, const std::shared_ptr<const TokenFileReader>& file,
                           const HarmonyTokens& harmony, std::int64_t max_tokens, bool keeps_log_probs,
                           const std::function<void(std::int64_t)>& progress) {
  Evaluation result;
  std::size_t sample = 0;
  std::int64_t done = 0;
  SequentialReader reader(file, max_tokens);
  while (const auto batch = reader.next()) {
    const TokenRows rows = rows_of(*batch);
    const TargetScores scores = score_targets(transformer, rows, keeps_log_probs);
    if (keeps_log_probs) {
      result.log_probs.insert(result.log_probs.end(), scores.log_probs.begin(), scores.log_probs.end());
    }
    for (std::size_t s = 0; s + 1 < rows.sample_offsets.size(); ++s, ++sample) {
      const auto begin = static_cast<std::size_t>(rows.sample_offsets[s]),
                 end = static_cast<std::size_t>(rows.sample_offsets[s + 1]);
      const std::vector<SegmentKind> kinds =
          harmony.is_known() ? kinds_of(harmony, rows.tokens.subspan(begin, end - begin)) : std::vector<SegmentKind>();
      const auto source = file_of(file->sample_source(static_cast<std::int64_t>(sample)));
      for (auto t = begin + 1; t < end; ++t) {
        const float weight = rows.loss_weights[t];
        if (weight == 0.0f) continue;
        const auto add_to = [&](Group& group) {
          add(group, sample, scores.log_probs[t], weight, scores.is_best[t] != 0);
        };
        add_to(result.all);
        if (!kinds.empty()) add_to(result.channels[kinds[t - begin]]);
        if (source) add_to(result.files[*source]);
      }
    }
    done += static_cast<std::int64_t>(batch->tokens.size());
    if (progress) progress(done);
  }
  return result;
}

}  // namespace ossature
