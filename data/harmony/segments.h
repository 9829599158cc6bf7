// Cuts the tokens of a sample into harmony messages:
//     <|start|>HEADER<|message|>CONTENT<|end|>          (or <|call|> or <|return|>)
// Nothing here throws: tokens may be cut anywhere, broken or no harmony at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace ossature {

/// The ids by which messages and their channels are found; -1 or empty where a tokenizer has none.
struct HarmonyTokens {
  std::int32_t start = -1, end = -1, message = -1, channel = -1, constrain = -1, return_ = -1, call = -1;
  std::vector<std::int32_t> assistant, analysis, commentary, final, to;  // "assistant", ..., " to"

  [[nodiscard]] static HarmonyTokens of(const Tokenizer& tokenizer);
  /// Those of o200k_harmony, gpt-oss's own, whose 200,019 ids fit `vocab_size`; without a start token if they do not.
  [[nodiscard]] static HarmonyTokens o200k(std::int64_t vocab_size);
  /// Whether messages can be found at all.
  [[nodiscard]] bool is_known() const { return start >= 0 && message >= 0; }
};

/// What a segment is to somebody who asks what a model learns.
enum class SegmentKind {
  kAnalysis,    // of the assistant, without a recipient
  kCommentary,  // the same
  kFinal,       // the same
  kToolCalls,   // of the assistant, with a recipient, on any channel
  kOther,       // any other message: system, developer, user, results of tools, or an unknown channel
  kText,        // no message: plain text, or what stands between messages
};
inline constexpr std::size_t kNumSegmentKinds = 6;
/// "analysis", "commentary", "final", "tool_calls", "other_messages", "plain_text".
[[nodiscard]] std::string_view name_of(SegmentKind kind);

/// Positions in the sample: header is begin .. content_begin, its markup included; content is content_begin ..
/// content_end; the token that ends the message, if there is one, is content_end .. end.
struct Segment {
  SegmentKind kind = SegmentKind::kText;
  std::int64_t begin = 0, content_begin = 0, content_end = 0, end = 0;
};

/// Finds the segments of a sample one after another; together they are all of its tokens, and none is empty. A message
/// that lacks its beginning, as a reply does after its prompt, is recognised by its channel; one that is cut ends with
/// the sample. Both references must outlive it.
class SegmentFinder {
 public:
  SegmentFinder(const HarmonyTokens& harmony, std::span<const std::int32_t> tokens);
  /// False at the end.
  [[nodiscard]] bool next(Segment& segment);

 private:
  [[nodiscard]] SegmentKind kind_of(std::int64_t begin, std::int64_t channel, std::int64_t content) const;

  const HarmonyTokens& harmony_;
  std::span<const std::int32_t> tokens_;
  std::int32_t lowest_, highest_;  // of the ids that mark something
  std::int64_t position_ = 0;
};

/// What the header of a message says.
struct SegmentHeader {
  std::string role;          // "assistant", "user", ...; "tool" for results of tools
  std::string name;          // of a tool ("functions.f"), or what follows "user:"
  std::string recipient;     // "functions.f"
  std::string channel;       // "final"
  std::string content_type;  // "json", "<|constrain|>json"
};

/// The header of `segment` of `tokens`; all parts empty for plain text.
[[nodiscard]] SegmentHeader header_of(const Tokenizer& tokenizer, const HarmonyTokens& harmony,
                                      std::span<const std::int32_t> tokens, const Segment& segment);

}  // namespace ossature
