// Loss, perplexity and token accuracy of a token file, of its parts too, with how far chance may have moved them.
//
// Intervals are of 95 %, by the jackknife over samples: the tokens of a sample are not independent of each other, so a
// sample is what is left out; it is a ratio of sums over samples of unequal lengths that is estimated, for which the
// jackknife is consistent; and unlike the bootstrap it needs no random numbers, so the same file gives the same
// interval.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/harmony/segments.h"
#include "data/token_file/token_file.h"
#include "model/network/transformer.h"

namespace ossature {

/// What one sample adds to a ratio.
struct RatioTerm {
  double numerator = 0.0, denominator = 0.0;
};

/// A ratio of sums; `margin` is half of its interval, none with fewer than two samples.
struct Ratio {
  double value = 0.0;
  std::optional<double> margin;
};

/// Sum of numerators over sum of denominators, its margin 1.96 standard errors by the jackknife (Efron and Stein,
/// 1981). Terms without a denominator are no samples of it. NaN if there is none.
[[nodiscard]] Ratio jackknife(const std::vector<RatioTerm>& terms);

/// A part of the tokens, or all of them.
struct Group {
  std::int64_t num_learned = 0;
  std::vector<RatioTerm> loss;      // of each sample: weighted loss, weights
  std::vector<RatioTerm> accuracy;  // tokens predicted best, tokens
};

struct Evaluation {
  Group all;
  std::map<SegmentKind, Group> channels;  // where harmony's tokens are known
  std::map<std::string, Group> files;     // where the token file knows them
  std::vector<float> log_probs;           // of all tokens, if asked for
};

/// Reads the file once. Samples are in order, so that two models' groups have the same samples in the same places.
/// `progress`, when given, hears the tokens done.
[[nodiscard]] Evaluation evaluate_groups(const Transformer& transformer,
                                         const std::shared_ptr<const TokenFileReader>& file,
                                         const HarmonyTokens& harmony, std::int64_t max_tokens, bool keeps_log_probs,
                                         const std::function<void(std::int64_t)>& progress = {});

/// `other` minus `base`, sample by sample: what is common to both samples' difficulty cancels.
[[nodiscard]] std::vector<RatioTerm> difference(const std::vector<RatioTerm>& base,
                                                const std::vector<RatioTerm>& other);

}  // namespace ossature
