// What becomes of samples that are longer than a limit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.h"
#include "data/harmony/harmony.h"
#include "data/harmony/segments.h"
#include "data/prepare/occurrences.h"

namespace ossature {

enum class OverLength {
  kError,     // DataError
  kDrop,      // the sample is left out
  kTruncate,  // its first tokens are kept; left out if nothing is learned in them
  kSplit,     // several samples are made of it, of whole turns or of plain text cut anywhere
};

/// "error", "drop", "truncate" or "split". Throws DataError for another name.
[[nodiscard]] OverLength over_length(std::string_view name);

struct LengthOptions {
  std::int64_t max_length = 0;  // tokens, from 2 on; 0: no limit
  OverLength over_length = OverLength::kError;
};

/// What was done, sample by sample.
struct LengthReport {
  Occurrences dropped;
  Occurrences truncated;                 // all of them, also those counted next
  Occurrences truncated_learned;         // those that lost learned tokens
  std::int64_t learned_tokens_lost = 0;  // by truncation
  Occurrences split;
  Occurrences turns_dropped;  // when splitting: turns that are too long alone

  void append(const LengthReport& later);
};

class LengthLimit {
 public:
  /// `harmony` must outlive it.
  LengthLimit(const Harmony& harmony, LengthOptions options);

  /// Appends `sample` to `out`, or what becomes of it; `place` names it in `report`. Throws DataError "place: ..." if
  /// it is too long and that is an error.
  ///
  /// Plain text is split into parts of max_length tokens; each begins with the last token of the part before, which is
  /// only context there, so every learned token is learned once. A conversation is split before messages of users that
  /// follow the assistant, from its end on, so the last part has as many turns as fit and the first one the rest; each
  /// part begins with the system and developer messages of the conversation's beginning; where a part ends in a final
  /// answer, "<|return|>" does. Parts in which nothing is learned are left out.
  void apply(RenderedSample sample, bool is_plain_text, const std::string& place, std::vector<RenderedSample>& out,
             LengthReport& report) const;

 private:
  struct Turns;
  void truncate(RenderedSample sample, const std::string& where, std::vector<RenderedSample>& out,
                LengthReport& report) const;
  void split_text(const RenderedSample& sample, std::vector<RenderedSample>& out) const;
  void split_conversation(const RenderedSample& sample, const std::string& where, std::vector<RenderedSample>& out,
                          LengthReport& report) const;
  [[nodiscard]] Turns find_turns(const RenderedSample& sample) const;

  const Harmony& harmony_;
  HarmonyTokens tokens_;
  LengthOptions options_;
};

}  // namespace ossature
