// What people trip over in training data: nothing here is an error, each finding says why it may hurt and what to do.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/harmony/conversation.h"
#include "data/harmony/harmony.h"

namespace ossature {

enum class LintKind {
  kNothingLearned,
  kNoFinal,
  kEmptyAnswer,
  kMarkup,
  kRoleOrder,
  kLateInstructions,
  kUnansweredCall,
  kResultWithoutCall,
  kEndsInResult,
  kEndsInUser,
  kNoSystemMessage,
  kDroppedThinking,
  kSeveralTurns,
  // These show across samples only.
  kThinkingInSome,
  kDuplicate,
};
inline constexpr std::size_t kNumLintKinds = 15;

/// "nothing-learned", "no-final", ...
[[nodiscard]] std::string_view name_of(LintKind kind);
/// A sentence that says what is the matter and why, and one that says what to do.
[[nodiscard]] std::string_view explanation_of(LintKind kind);
[[nodiscard]] std::string_view advice_of(LintKind kind);

/// What one sample of the input gave; the threads that render make it.
struct SampleLint {
  std::uint32_t kinds = 0;  // bit k: LintKind k
  bool is_conversation = false;
  bool has_thinking = false;
  std::uint64_t hash = 0;  // of the tokens

  [[nodiscard]] bool has(LintKind kind) const { return (kinds >> static_cast<int>(kind) & 1) != 0; }
};

/// `rendered` is what `harmony` made of it.
[[nodiscard]] SampleLint lint(const Conversation& conversation, const std::vector<RenderedSample>& rendered,
                              const HarmonyOptions& options);
/// The same for plain text, and for text that was rendered in the harmony format before.
[[nodiscard]] SampleLint lint_text(std::string_view text, const RenderedSample& rendered);
[[nodiscard]] SampleLint lint_harmony_text(std::string_view text, const std::vector<RenderedSample>& rendered);

struct LintFinding {
  LintKind kind;
  std::int64_t count;                // samples
  std::vector<std::string> sources;  // of the first few
};

/// Collects the findings of all samples, added in their order by one thread. Duplicates are told by 64-bit hashes: the
/// first 4 Mi different samples are remembered, in 64 MiB (96 while they grow to it); later ones are compared with
/// those.
class Lint {
 public:
  static constexpr std::size_t kSourcesShown = 5;
  static constexpr std::size_t kMostRemembered = std::size_t{1} << 22;

  /// `source` is "chats.jsonl:12".
  void add(const SampleLint& sample, std::string_view source);

  /// Those that were found, in the order of LintKind. For kThinkingInSome, `count` and `sources` are of those
  /// conversations, with thinking or without, that are fewer.
  [[nodiscard]] std::vector<LintFinding> findings() const;

 private:
  struct Tally {
    std::int64_t count = 0;
    std::vector<std::string> sources;
    void add(std::string_view source);
  };
  /// Whether it was there already.
  bool remember(std::uint64_t hash);

  std::array<Tally, kNumLintKinds> tallies_;
  Tally with_thinking_, without_thinking_;
  std::vector<std::uint64_t> table_;  // open addressing, 0: free
  std::size_t num_remembered_ = 0;
};

}  // namespace ossature
